//! aarch64: registers for a debugger, and the breakpoint instruction.

use hvt_abi::aarch64::Registers;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Instruction of a software breakpoint: `brk #0` (Arm ARM, C6.2.50). While there are breakpoints,
/// a `brk` of the guest also exits and is returned to the guest. The address distinguishes the two.
pub const BREAKPOINT_INSTRUCTION: [u8; 4] = 0xd420_0000_u32.to_le_bytes();

/// All registers of a virtual CPU that programs use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuState {
    /// General registers.
    pub registers: Registers,
    /// TPIDR_EL0: the thread pointer.
    pub tpidr: u64,
    /// Floating point and SIMD.
    pub fpu: FpState,
}

impl From<Registers> for CpuState {
    /// Other registers have their values at the guest's entry point.
    fn from(registers: Registers) -> Self {
        Self { registers, ..Self::default() }
    }
}

/// Floating-point and SIMD registers in the layout of Linux's `struct user_fpsimd_state`. At the
/// guest's entry point all are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FpState {
    /// V0 to V31.
    pub v: [u128; 32],
    /// FPSR: status.
    pub fpsr: u32,
    /// FPCR: control.
    pub fpcr: u32,
    reserved: [u32; 2],
}

const _: () = assert!(size_of::<FpState>() == 528 && std::mem::offset_of!(FpState, fpsr) == 512);
