//! x86_64: registers for a debugger, and the breakpoint instruction.

use hvt_abi::x86_64::{CODE_SELECTOR, DATA_SELECTOR, Registers};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Instruction of a software breakpoint: `hlt`, a single byte that exits on every backend and that
/// no guest of a tender uses. The guest therefore keeps `int3`.
pub(crate) const BREAKPOINT_INSTRUCTION: [u8; 1] = [0xf4];

/// All registers of a virtual CPU that programs use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuState {
    /// General registers.
    pub registers: Registers,
    /// Segment registers.
    pub segments: Segments,
    /// x87 and SSE.
    pub fpu: FxState,
}

impl From<Registers> for CpuState {
    /// Other registers have their values at the guest's entry point.
    fn from(registers: Registers) -> Self {
        Self { registers, ..Self::default() }
    }
}

/// Selectors, and the bases that have an effect in 64-bit mode (SDM volume 1, 3.4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    pub cs: u16,
    pub ss: u16,
    pub ds: u16,
    pub es: u16,
    pub fs: u16,
    pub gs: u16,
    pub fs_base: u64,
    pub gs_base: u64,
}

impl Default for Segments {
    /// Segment registers at the guest's entry point.
    fn default() -> Self {
        let data = DATA_SELECTOR;
        Self { cs: CODE_SELECTOR, ss: data, ds: data, es: data, fs: data, gs: data, fs_base: 0, gs_base: 0 }
    }
}

/// x87 and SSE registers in the layout of `FXSAVE64` (SDM volume 2, FXSAVE), which Linux's
/// `user_fpregs_struct` shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FxState {
    /// x87 control word.
    pub fcw: u16,
    /// x87 status word.
    pub fsw: u16,
    /// One bit for each x87 register in use.
    pub ftw: u8,
    reserved: u8,
    /// Last x87 opcode, 11 bits.
    pub fop: u16,
    /// Address of the last x87 instruction.
    pub fip: u64,
    /// Address of the operand of the last x87 instruction.
    pub fdp: u64,
    /// SSE control and status.
    pub mxcsr: u32,
    /// Bits of MXCSR that this CPU supports.
    pub mxcsr_mask: u32,
    /// ST0 to ST7, 80 bits each.
    pub st: [[u8; 16]; 8],
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    unused: [u8; 96],
}

const _: () = assert!(size_of::<FxState>() == 512 && std::mem::offset_of!(FxState, xmm) == 160);

impl FxState {
    /// Number of bytes that hold registers.
    pub const USED: usize = std::mem::offset_of!(Self, unused);

    /// Converts the legacy region of an XSAVE area. Components missing in `in_use` (XSTATE_BV) have
    /// their initial state (SDM volume 1, 13.4).
    #[must_use]
    pub fn from_xsave(legacy: &[u8; 512], in_use: u64) -> Self {
        const X87: u64 = 1 << 0;
        const SSE: u64 = 1 << 1;
        let saved: Self = zerocopy::transmute!(*legacy);
        let mut state = Self { mxcsr: saved.mxcsr, mxcsr_mask: saved.mxcsr_mask, ..Self::default() };
        if in_use & SSE != 0 {
            state.xmm = saved.xmm;
        }
        if in_use & X87 != 0 {
            let Self { fcw, fsw, ftw, fop, fip, fdp, st, .. } = saved;
            state = Self { fcw, fsw, ftw, fop, fip, fdp, st, ..state };
        }
        state
    }
}

impl Default for FxState {
    /// State at the guest's entry point: after FNINIT (SDM volume 3, 8.1.5) with MXCSR at its reset
    /// value (11.6.4).
    fn default() -> Self {
        Self { fcw: 0x37f, mxcsr: 0x1f80, mxcsr_mask: 0xffff, ..FromZeros::new_zeroed() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_that_are_not_in_use_are_initial() {
        let saved = FxState { fcw: 0x27f, mxcsr: 0x9fc0, xmm: [7; 16], ..FxState::default() };
        let bytes: [u8; 512] = zerocopy::transmute!(saved);
        assert_eq!(FxState::from_xsave(&bytes, 3), saved);
        assert_eq!(FxState::from_xsave(&bytes, 0), FxState { mxcsr: 0x9fc0, ..FxState::default() });
        assert_eq!(FxState::from_xsave(&bytes, 2), FxState { fcw: 0x37f, ..saved });
    }
}
