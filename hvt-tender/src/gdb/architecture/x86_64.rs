//! x86_64: the registers of `gdbstub_arch` with SSE, and the bases of FS and GS.

use gdbstub_arch::x86::reg::id::X86_64CoreRegId;
use gdbstub_arch::x86::reg::{X86_64CoreRegs, X86SegmentRegs, X87FpuInternalRegs};
use hvt_abi::x86_64::Registers;

use super::Fixed;
use crate::backend::debug::{CpuState, FxState};

/// Register identifier of gdb.
pub(super) type RegisterId = X86_64CoreRegId;

/// Target description.
pub(super) const DESCRIPTION: &str = include_str!("x86_64.xml");

/// Returns whether gdb must see this instruction before a step: never.
pub(in crate::gdb) fn must_be_seen(_instruction: impl FnOnce() -> [u8; 4]) -> bool {
    false
}

/// Registers in the order of the target description.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct GdbRegisters {
    core: X86_64CoreRegs,
    fs_base: u64,
    gs_base: u64,
}

/// Size in bytes of the registers in `gdbstub_arch`.
const CORE: usize = 0x218;

impl gdbstub::arch::Registers for GdbRegisters {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.core.rip
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.core.gdb_serialize(&mut write_byte);
        for base in [self.fs_base, self.gs_base] {
            base.to_le_bytes().into_iter().for_each(|byte| write_byte(Some(byte)));
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let (core, bases) = bytes.split_at_checked(CORE).ok_or(())?;
        let (fs_base, bases) = bases.split_first_chunk().ok_or(())?;
        let (gs_base, _) = bases.split_first_chunk().ok_or(())?;
        self.core.gdb_deserialize(core)?;
        self.fs_base = u64::from_le_bytes(*fs_base);
        self.gs_base = u64::from_le_bytes(*gs_base);
        Ok(())
    }
}

impl From<&CpuState> for GdbRegisters {
    fn from(state: &CpuState) -> Self {
        let Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags } =
            state.registers;
        let (segments, fpu) = (&state.segments, &state.fpu);
        Self {
            core: X86_64CoreRegs {
                regs: [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15],
                eflags: rflags as u32,
                rip,
                segments: X86SegmentRegs {
                    cs: segments.cs.into(),
                    ss: segments.ss.into(),
                    ds: segments.ds.into(),
                    es: segments.es.into(),
                    fs: segments.fs.into(),
                    gs: segments.gs.into(),
                },
                st: fpu.st.map(|register| *register.first_chunk().unwrap_or(&[0; 10])),
                fpu: X87FpuInternalRegs {
                    fctrl: fpu.fcw.into(),
                    fstat: fpu.fsw.into(),
                    ftag: full_tags(fpu),
                    fiseg: (fpu.fip >> 32) as u32,
                    fioff: fpu.fip as u32,
                    foseg: (fpu.fdp >> 32) as u32,
                    fooff: fpu.fdp as u32,
                    fop: fpu.fop.into(),
                },
                xmm: fpu.xmm,
                mxcsr: fpu.mxcsr,
            },
            fs_base: segments.fs_base,
            gs_base: segments.gs_base,
        }
    }
}

impl GdbRegisters {
    /// Returns `state` with the changed registers applied.
    pub(in crate::gdb) fn apply(&self, state: &CpuState) -> Result<CpuState, Fixed> {
        let mut new = *state;
        if Self::from(state).core.segments != self.core.segments {
            return Err(Fixed);
        }
        let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15] = self.core.regs;
        let (rip, rflags) = (self.core.rip, self.core.eflags.into());
        new.registers =
            Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags };
        (new.segments.fs_base, new.segments.gs_base) = (self.fs_base, self.gs_base);
        let fpu = &self.core.fpu;
        new.fpu.fcw = fpu.fctrl as u16;
        new.fpu.fsw = fpu.fstat as u16;
        new.fpu.ftw = short_tags(fpu.ftag);
        new.fpu.fop = fpu.fop as u16 & 0x7ff;
        new.fpu.fip = u64::from(fpu.fiseg) << 32 | u64::from(fpu.fioff);
        new.fpu.fdp = u64::from(fpu.foseg) << 32 | u64::from(fpu.fooff);
        new.fpu.mxcsr = self.core.mxcsr;
        new.fpu.xmm = self.core.xmm;
        for (register, value) in new.fpu.st.iter_mut().zip(&self.core.st) {
            register[..value.len()].copy_from_slice(value);
        }
        Ok(new)
    }
}

/// Values of a register's tag in the x87 tag word (SDM volume 1, 8.1.7).
const VALID: u32 = 0;
const ZERO: u32 = 1;
const SPECIAL: u32 = 2;
const EMPTY: u32 = 3;

/// Returns the x87 tag word. FXSAVE stores one bit per register; the tags are computed from the
/// registers' contents.
fn full_tags(fpu: &FxState) -> u32 {
    let top = usize::from(fpu.fsw >> 11 & 7);
    (0..8).fold(0, |tags, physical| {
        let [significand @ .., exponent_low, exponent_high] =
            *fpu.st[(physical + 8 - top) % 8].first_chunk::<10>().unwrap_or(&[0; 10]);
        let significand = u64::from_le_bytes(significand);
        let tag = match u16::from_le_bytes([exponent_low, exponent_high]) & 0x7fff {
            _ if fpu.ftw >> physical & 1 == 0 => EMPTY,
            0 if significand == 0 => ZERO,
            0 | 0x7fff => SPECIAL,
            _ if significand >> 63 == 1 => VALID,
            _ => SPECIAL,
        };
        tags | tag << (2 * physical)
    })
}

/// Returns the tag word in the format of FXSAVE.
fn short_tags(tags: u32) -> u8 {
    (0..8).fold(0, |short, physical| short | u8::from(tags >> (2 * physical) & 3 != EMPTY) << physical)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Registers with distinct values where possible.
    pub(in crate::gdb::architecture) fn some_state() -> CpuState {
        let mut state =
            CpuState::from(Registers { rax: 1, r15: 15, rip: 0x10_0000, rflags: 0x246, ..Registers::default() });
        (state.segments.fs_base, state.segments.gs_base) = (0x11_0000, 0xffff_8000_0000_0000);
        (state.fpu.fsw, state.fpu.ftw, state.fpu.mxcsr) = (7 << 11, 0x80, 0x9fc0);
        state.fpu.st[0][..10].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
        state.fpu.xmm[15] = u128::MAX - 1;
        state
    }

    #[test]
    fn tags_follow_from_the_contents() {
        let mut state = some_state();
        assert_eq!(full_tags(&state.fpu), 0x3fff, "the one register in use is valid");
        state.fpu.st[0] = [0; 16];
        assert_eq!(full_tags(&state.fpu), 0x7fff, "zero");
        state.fpu.st[0] = [0xff; 16];
        assert_eq!(full_tags(&state.fpu), 0xbfff, "not a number");
        assert_eq!((short_tags(0xbfff), short_tags(0xffff), short_tags(0)), (0x80, 0, 0xff));
    }

    #[test]
    fn selectors_cannot_be_changed() {
        let mut registers = GdbRegisters::from(&some_state());
        registers.core.segments.ds = 0x33;
        assert!(registers.apply(&some_state()).is_err());
    }
}
