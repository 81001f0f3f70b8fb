//! What a guest may write to control registers: the rules of 64-bit mode (SDM volume 2, MOV to control registers; APM
//! volume 2, 3.1.7), and what of it this backend can do.

use hvt_abi::x86_64::{Cr0, Cr4, Efer};

/// What comes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written<T> {
    /// The register holds this now.
    Value(T),
    /// A CPU in 64-bit mode raises #GP(0).
    Fault,
    /// A CPU would do it, but this backend cannot.
    Unsupported,
}

/// Writes CR0. Caching and the coprocessor's error reporting mean nothing to a process, so these bits are the guest's.
pub(super) fn write_cr0(now: Cr0, value: u64) -> Written<Cr0> {
    let wanted = Cr0::from_bits_retain(value);
    let contradictory = wanted.contains(Cr0::NW) && !wanted.contains(Cr0::CD);
    if value >> 32 != 0 || !wanted.contains(Cr0::PG | Cr0::PE) || contradictory {
        return Written::Fault;
    }
    // Reserved bits below 32 are ignored; ET reads as 1.
    let wanted = Cr0::from_bits_truncate(value) | Cr0::ET;
    let fixed = Cr0::WP | Cr0::EM | Cr0::TS | Cr0::AM;
    if (wanted ^ now).intersects(fixed) { Written::Unsupported } else { Written::Value(wanted) }
}

/// Bits of CR4 that are defined, but that a guest without nested virtualization, or in 64-bit mode, cannot change: LA57,
/// VMXE, SMXE.
const CR4_NEVER: u64 = 1 << 12 | 1 << 13 | 1 << 14;
/// Bits of CR4 that are defined: VME to UMIP, FSGSBASE to OSXSAVE, SMEP to PKS.
const CR4_DEFINED: u64 = 0xfff | 0x7 << 16 | 0x1f << 20;

/// Writes CR4.
pub(super) fn write_cr4(now: Cr4, value: u64) -> Written<Cr4> {
    let wanted = Cr4::from_bits_retain(value);
    if value & CR4_NEVER != 0 || value & !CR4_DEFINED != 0 || !wanted.contains(Cr4::PAE) {
        return Written::Fault;
    }
    let free = Cr4::PSE | Cr4::PGE | Cr4::OSFXSR | Cr4::OSXMMEXCPT;
    if free.contains(wanted ^ now) { Written::Value(wanted) } else { Written::Unsupported }
}

/// Bits of EFER that are defined: SCE, LME, LMA, NXE, and AMD's LMSLE, FFXSR and TCE. SVME cannot be set by a guest.
const EFER_DEFINED: u64 = 0xd01 | 0x7 << 13;

/// Writes IA32_EFER.
pub(super) fn write_efer(now: Efer, value: u64) -> Written<Efer> {
    // LMA is read-only: what is written there is ignored.
    let wanted = Efer::from_bits_retain(value) | Efer::LMA;
    if value & !EFER_DEFINED != 0 || !wanted.contains(Efer::LME) {
        return Written::Fault;
    }
    if wanted == now { Written::Value(wanted) } else { Written::Unsupported }
}
