//! aarch64: translation tables and exception vectors.

use hvt_abi::Gpa;
use hvt_abi::aarch64::{Descriptor, MMIO_BASE, Mair, PGD_BASE, PMD_BASE, PTE_BASE, PUD_BASE, VECTORS, VECTORS_BASE};

use super::paging::Format;
use crate::memory::Permissions;

/// Four levels of 4 KiB tables, stage 1 (Arm ARM, D8.3).
///
/// The access flag is set from the start, so that the first access does not fault. Executable
/// memory is readable as well, because stage 1 tables cannot forbid reads at EL1. EL0 has no access
/// and cannot execute anything.
pub(super) struct Paging;

/// Executable at no exception level.
const NEVER_EXECUTE: Descriptor = Descriptor::PXN.union(Descriptor::UXN);

impl Format for Paging {
    const ROOT: Gpa = PGD_BASE;
    const UPPER: Gpa = PUD_BASE;
    const DIRECTORIES: Gpa = PMD_BASE;
    const LEAVES: Gpa = PTE_BASE;
    const DEVICES: Option<u64> = Some(
        MMIO_BASE.0
            | Mair::DeviceNGnRE.index()
            | NEVER_EXECUTE.union(Descriptor::VALID).union(Descriptor::AF).union(Descriptor::SH_INNER).bits(),
    );
    const DESCRIPTORS: Option<(Gpa, &'static [u64])> = None;
    const VECTORS: Option<(Gpa, &'static [u64])> = Some((VECTORS_BASE, &VECTORS));

    fn table(at: Gpa) -> u64 {
        at.0 | (Descriptor::VALID | Descriptor::TABLE_OR_PAGE).bits()
    }

    fn block(at: Gpa, access: Permissions) -> u64 {
        let mut entry = Descriptor::VALID | Descriptor::AF | Descriptor::SH_INNER | Descriptor::UXN;
        entry.set(Descriptor::AP_READ_ONLY, !access.contains(Permissions::WRITE));
        entry.set(Descriptor::PXN, !access.contains(Permissions::EXECUTE));
        at.0 | Mair::Normal.index() | entry.bits()
    }

    fn page(at: Gpa, access: Permissions) -> u64 {
        Self::block(at, access) | Descriptor::TABLE_OR_PAGE.bits()
    }
}
