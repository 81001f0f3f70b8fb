//! Page walk of a CPU, implemented independently of the code that writes the tables.

use super::PAGE;
use crate::boot::paging::Format;
use crate::boot::{aarch64, x86_64};

/// Result of a page walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) physical: u64,
    pub(super) writable: bool,
    pub(super) executable: bool,
    pub(super) large: bool,
}

/// Architecture whose tables are walked, on any host.
pub(super) trait Mmu: Format {
    /// Addresses and lengths in bytes of the tender's own data that `writes_nothing_else` must
    /// find, for a guest whose 4 KiB pages lie in two tables.
    const LOW: &[(u64, usize)];
    /// Number of further 4 KiB page tables that fit below 0x10000.
    const FURTHER: u64;
    /// Addresses above all memory that must not be mapped.
    const BEYOND: &[u64];

    /// Walks the tables for `address`.
    fn walk(memory: &[u8], address: u64) -> Option<Page>;
}

fn entry(memory: &[u8], table: u64, address: u64, level: u32) -> u64 {
    let at = (table + (address >> (12 + 9 * level) & 0x1ff) * 8) as usize;
    u64::from_le_bytes(memory[at..at + 8].try_into().unwrap())
}

/// Physical address of `address` by an entry of this level that maps memory.
fn physical(entry: u64, address: u64, level: u32) -> u64 {
    let size = PAGE << (9 * level);
    let target = entry & 0x0000_ffff_ffff_f000;
    assert_eq!(target % size, 0);
    target + address % size
}

/// SDM volume 3, 4.5.
impl Mmu for x86_64::Paging {
    const LOW: &[(u64, usize)] = &[(0x1000, 24), (0x2000, 8), (0x3000, 32), (0x4000, 4096), (0x8000, 8192)];
    const FURTHER: u64 = 7;
    const BEYOND: &[u64] = &[0xffff_f000, 1 << 32, 1 << 39, 1 << 47];

    fn walk(memory: &[u8], address: u64) -> Option<Page> {
        let mut table = 0x2000;
        let (mut writable, mut executable) = (true, true);
        for level in (0..4).rev() {
            let entry = entry(memory, table, address, level);
            if entry & 1 == 0 {
                return None;
            }
            writable &= entry & 2 != 0;
            executable &= entry >> 63 == 0;
            assert_eq!(entry & 4, 0, "accessible at CPL 3");
            let large = level == 1 && entry & 0x80 != 0;
            if large || level == 0 {
                return Some(Page { physical: physical(entry, address, level), writable, executable, large });
            }
            table = entry & 0x000f_ffff_ffff_f000;
        }
        None
    }
}

/// Arm ARM, D8.2.4 (the walk), D8.3.1 (descriptors), D8.4.1 (permissions). The memory type must
/// match the memory or device at the address.
impl Mmu for aarch64::Paging {
    const LOW: &[(u64, usize)] = &[(0x1000, 8), (0x2000, 40), (0x3000, 4096), (0x7000, 8192), (0xf_f000, 2048)];
    const FURTHER: u64 = 8;
    const BEYOND: &[u64] = &[0xffff_f000, 5 << 30, 1 << 39, (1 << 40) - PAGE];

    fn walk(memory: &[u8], address: u64) -> Option<Page> {
        let mut table = 0x1000;
        for level in (0..4).rev() {
            let entry = entry(memory, table, address, level);
            if entry & 1 == 0 {
                return None;
            }
            let table_or_page = entry & 2 != 0;
            if table_or_page != (level == 0) {
                assert!(table_or_page, "a block cannot be at this level: {level}");
                assert_eq!(entry >> 59, 0, "the table takes permissions from what is below");
                table = entry & 0x0000_ffff_ffff_f000;
                continue;
            }
            assert!(level < 3 && (level != 0 || table_or_page), "nothing is mapped at this level: {level}");
            assert_eq!(entry & 1 << 10, 1 << 10, "the first access would fault");
            assert_eq!(entry & 3 << 8, 3 << 8, "not inner shareable");
            assert_eq!(entry & 1 << 6, 0, "accessible at EL0");
            assert_eq!(entry & 1 << 54, 1 << 54, "executable at EL0");
            assert_eq!(entry & 1 << 11, 0, "not global");
            let executable = entry & 1 << 53 == 0;
            let writable = entry & 1 << 7 == 0;
            let device = entry >> 2 & 7 == 1;
            assert_eq!(device, address >= 4 << 30, "of another memory type: {entry:#x}");
            assert!(device || entry >> 2 & 7 == 4, "neither cached nor a device: {entry:#x}");
            assert_eq!(device, level == 2, "a block of 1 GiB that is no device");
            let physical = physical(entry, address, level);
            return Some(Page { physical, writable, executable, large: level > 0 });
        }
        None
    }
}
