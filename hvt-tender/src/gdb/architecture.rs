//! Registers in the format of gdb. The modules of the architectures list the registers, and add
//! what gdb must know about the CPU.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use gdbstub::arch::Arch;

#[cfg(target_arch = "aarch64")]
use self::aarch64 as arch;
#[cfg(target_arch = "x86_64")]
use self::x86_64 as arch;

pub(super) use self::arch::{GdbRegisters, must_be_seen};

/// vCPU of the architecture that this tender was built for, in its 64-bit state.
#[derive(Debug)]
pub(crate) enum Native {}

impl Arch for Native {
    type Usize = u64;
    type Registers = GdbRegisters;
    type RegId = arch::RegisterId;
    type BreakpointKind = usize;

    fn target_description_xml() -> Option<&'static str> {
        Some(arch::DESCRIPTION)
    }
}

/// Attempt of the debugger to change a register that cannot be changed.
#[derive(Debug)]
pub(crate) struct Fixed;

#[cfg(test)]
mod tests {
    use super::*;

    use gdbstub::arch::Registers;

    use super::arch::tests::some_state;
    use crate::backend::debug::CpuState;

    #[test]
    fn registers_go_to_gdb_and_back() {
        let state = some_state();
        let mut bytes = Vec::new();
        GdbRegisters::from(&state).gdb_serialize(|byte| bytes.extend(byte));
        let mut back = GdbRegisters::default();
        back.gdb_deserialize(&bytes).unwrap();
        assert_eq!(back.apply(&CpuState::default()).unwrap(), state);
        for len in 0..bytes.len() {
            assert_eq!(GdbRegisters::default().gdb_deserialize(&bytes[..len]), Err(()));
        }
    }

    /// The description has as many bits as the packet, so that gdb splits the packet at the right
    /// places.
    #[test]
    fn the_target_description_fits() {
        let xml = arch::DESCRIPTION;
        let bits = xml.lines().filter_map(|line| line.trim().strip_prefix("<reg ")?.split("bitsize=\"").nth(1));
        let bits: usize = bits.map(|rest| rest.split('"').next().unwrap().parse::<usize>().unwrap()).sum();
        let mut bytes = 0;
        GdbRegisters::default().gdb_serialize(|_| bytes += 1);
        assert_eq!(bits, bytes * 8);
    }
}
