//! aarch64: the registers of `gdbstub_arch`, and the thread pointer.

use gdbstub_arch::aarch64::reg::AArch64CoreRegs;
use gdbstub_arch::aarch64::reg::id::AArch64RegId;
use hvt_abi::aarch64::Registers;

use super::Fixed;
use crate::backend::debug::CpuState;

/// Register identifier of gdb.
pub(super) type RegisterId = AArch64RegId;

/// Target description.
pub(super) const DESCRIPTION: &str = include_str!("aarch64.xml");

/// Returns whether gdb must see this instruction before a step: an exclusive load (Arm ARM,
/// C4.1.94). A step between the load and its store makes the store fail, on every attempt. gdb
/// handles this: it runs the guest until after the store.
pub(in crate::gdb) fn must_be_seen(instruction: impl FnOnce() -> [u8; 4]) -> bool {
    u32::from_le_bytes(instruction()) & 0x3fc0_0000 == 0x0840_0000
}

/// Registers in the order of the target description.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct GdbRegisters {
    core: AArch64CoreRegs,
    tpidr: u64,
}

/// Size in bytes of the registers in `gdbstub_arch`.
const CORE: usize = 33 * 8 + 4 + 32 * 16 + 2 * 4;

impl gdbstub::arch::Registers for GdbRegisters {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.core.pc
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.core.gdb_serialize(&mut write_byte);
        self.tpidr.to_le_bytes().into_iter().for_each(|byte| write_byte(Some(byte)));
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let (core, tpidr) = bytes.split_at_checked(CORE).ok_or(())?;
        let (tpidr, _) = tpidr.split_first_chunk().ok_or(())?;
        self.core.gdb_deserialize(core)?;
        self.tpidr = u64::from_le_bytes(*tpidr);
        Ok(())
    }
}

impl From<&CpuState> for GdbRegisters {
    fn from(state: &CpuState) -> Self {
        let Registers { x, sp, pc, pstate } = state.registers;
        let fpu = &state.fpu;
        Self {
            core: AArch64CoreRegs {
                x,
                sp,
                pc,
                // The upper half of PSTATE is 0.
                cpsr: pstate as u32,
                v: fpu.v,
                fpcr: fpu.fpcr,
                fpsr: fpu.fpsr,
            },
            tpidr: state.tpidr,
        }
    }
}

impl GdbRegisters {
    /// Returns `state` with the changed registers applied.
    pub(in crate::gdb) fn apply(&self, state: &CpuState) -> Result<CpuState, Fixed> {
        let AArch64CoreRegs { x, sp, pc, cpsr, v, fpcr, fpsr } = self.core;
        let mut new = *state;
        new.registers = Registers { x, sp, pc, pstate: cpsr.into() };
        new.tpidr = self.tpidr;
        (new.fpu.v, new.fpu.fpcr, new.fpu.fpsr) = (v, fpcr, fpsr);
        Ok(new)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use gdbstub::arch::Registers as _;

    /// Registers with distinct values where possible.
    pub(in crate::gdb::architecture) fn some_state() -> CpuState {
        let registers = Registers { x: std::array::from_fn(|number| 1 << number), sp: 1, pc: 2, pstate: 0x6000_03c5 };
        let mut state = CpuState { tpidr: u64::MAX - 1, ..CpuState::from(registers) };
        (state.fpu.v[31], state.fpu.fpcr, state.fpu.fpsr) = (u128::MAX - 1, 0x40_0000, 0x10);
        state
    }

    /// The description must list the last registers in the order of `gdbstub_arch`.
    #[test]
    fn control_comes_before_status() {
        let state = some_state();
        let mut bytes = Vec::new();
        GdbRegisters::from(&state).gdb_serialize(|byte| bytes.extend(byte));
        assert_eq!(bytes[CORE - 8..CORE], [0, 0, 0x40, 0, 0x10, 0, 0, 0]);
        let place = |name: &str| DESCRIPTION.find(&format!("<reg name=\"{name}\"")).unwrap();
        assert!(place("v31") < place("fpcr") && place("fpcr") < place("fpsr") && place("fpsr") < place("tpidr"));
    }

    #[test]
    fn gdb_sees_exclusive_loads() {
        // ldxr x8, [x0]; ldaxr w1, [x2]; ldaxp x0, x1, [x2]
        for instruction in [0xc85f_7c08_u32, 0x885f_fc41, 0xc87f_8440] {
            assert!(must_be_seen(|| instruction.to_le_bytes()), "{instruction:#x}");
        }
        // stxr w9, x8, [x0]; ldar x0, [x1]; ldr x0, [x1]; nop; brk #0
        for instruction in [0xc809_7c08_u32, 0xc8df_fc20, 0xf940_0020, 0xd503_201f, 0xd420_0000] {
            assert!(!must_be_seen(|| instruction.to_le_bytes()), "{instruction:#x}");
        }
    }
}
