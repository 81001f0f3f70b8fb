//! Walk of the guest's own page tables, to fetch an instruction that caused an exit.

use hvt_abi::{Gpa, x86_64::PageEntry};

/// Bits 51:12 of an entry: address of a table or page.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Translates `linear` with the four-level tables at `cr3` (SDM volume 3, 4.5), for a guest in
/// 64-bit mode without LA57. Permissions are ignored, because the CPU has executed the instruction.
/// `read` reads one entry.
pub(crate) fn linear_to_gpa(cr3: u64, linear: u64, read: impl Fn(Gpa) -> Option<u64>) -> Option<Gpa> {
    let mut table = cr3 & ADDRESS;
    for shift in [39, 30, 21, 12] {
        let raw = read(Gpa(table + (linear >> shift & 0x1ff) * 8))?;
        let entry = PageEntry::from_bits_retain(raw);
        if !entry.contains(PageEntry::PRESENT) {
            return None;
        }
        let is_page = shift == 12 || entry.contains(PageEntry::PAGE_SIZE) && shift < 39;
        let offset = (1_u64 << shift) - 1;
        if is_page {
            return Some(Gpa(raw & ADDRESS & !offset | linear & offset));
        }
        table = raw & ADDRESS;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables at 0x1000 (root), 0x2000, 0x3000, 0x4000; all other entries are not present.
    fn read(gpa: Gpa) -> Option<u64> {
        Some(match gpa.0 {
            0x1ff8 => 0x2003,
            0x2008 => 0x8000_0083, // 1 GiB
            0x2010 => 0x3003,
            0x3000 => 0x20_0083, // 2 MiB
            0x3008 => 0x4003,
            0x4028 => 0x8000_0000_0000_7001,
            0x4030 => return None,
            _ => 0,
        })
    }

    fn lookup(linear: u64) -> Option<Gpa> {
        linear_to_gpa(0x1018, 0xffff_ff80_0000_0000 | linear, read)
    }

    #[test]
    fn pages_of_every_size_are_found() {
        assert_eq!(lookup(0x4000_0123), Some(Gpa(0x8000_0123)));
        assert_eq!(lookup(0x8000_0123), Some(Gpa(0x20_0123)));
        assert_eq!(lookup(0x8020_5123), Some(Gpa(0x7123)));
    }

    #[test]
    fn holes_and_tables_outside_memory_lead_nowhere() {
        assert_eq!(lookup(0), None);
        assert_eq!(lookup(0x8020_6000), None);
        assert_eq!(linear_to_gpa(0x1000, 0, read), None);
    }
}
