//! x86_64: page tables and descriptor table.

use hvt_abi::Gpa;
use hvt_abi::x86_64::{GDT, GDT_BASE, PD_BASE, PDPT_BASE, PML4_BASE, PT_BASE, PageEntry};

use super::paging::Format;
use crate::memory::Permissions;

/// Four-level paging with EFER.NXE set (SDM volume 3, 4.5).
///
/// Accessed and dirty bits are set from the start, so that the CPU never writes to the tables.
/// Executable memory is readable as well, because these tables cannot forbid reads.
pub(super) struct Paging;

impl Format for Paging {
    const ROOT: Gpa = PML4_BASE;
    const UPPER: Gpa = PDPT_BASE;
    const DIRECTORIES: Gpa = PD_BASE;
    const LEAVES: Gpa = PT_BASE;
    const DEVICES: Option<u64> = None;
    const DESCRIPTORS: Option<(Gpa, &'static [u64])> = Some((GDT_BASE, &GDT));
    const VECTORS: Option<(Gpa, &'static [u64])> = None;

    fn table(at: Gpa) -> u64 {
        at.0 | (PageEntry::PRESENT | PageEntry::WRITABLE | PageEntry::ACCESSED).bits()
    }

    fn block(at: Gpa, access: Permissions) -> u64 {
        Self::page(at, access) | PageEntry::PAGE_SIZE.bits()
    }

    fn page(at: Gpa, access: Permissions) -> u64 {
        let mut entry = PageEntry::PRESENT | PageEntry::ACCESSED;
        entry.set(PageEntry::WRITABLE | PageEntry::DIRTY, access.contains(Permissions::WRITE));
        entry.set(PageEntry::NO_EXECUTE, !access.contains(Permissions::EXECUTE));
        at.0 | entry.bits()
    }
}
