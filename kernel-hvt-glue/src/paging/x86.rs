//! Bits common to both x86 formats.

use crate::host::Hpa;

/// Bits 51:12: address of a table or page.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bit 7: leaf above the lowest level.
pub(super) const PAGE_SIZE: u64 = 1 << 7;
/// Bit 11, ignored by the CPU in both formats: marks a leaf, even one without permissions.
pub(super) const LEAF: u64 = 1 << 11;

pub(super) const fn address(entry: u64) -> Hpa {
    Hpa(entry & ADDRESS)
}
