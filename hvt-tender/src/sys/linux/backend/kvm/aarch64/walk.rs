//! Stage 1 address translation of EL1 and EL0 with the guest's settings (Arm ARM, D8.2), for
//! reading its memory by virtual address.
//!
//! Supports all three granules with 48-bit addresses. Does not support larger addresses (FEAT_LVA,
//! FEAT_LPA, FEAT_LPA2) and ignores permissions, because a debugger sees everything that is mapped.

use hvt_abi::Gpa;

use crate::memory::GuestMemory;

/// System registers that control the translation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Regime {
    /// SCTLR_EL1.
    pub(super) sctlr: u64,
    /// TCR_EL1.
    pub(super) tcr: u64,
    /// TTBR0_EL1 and TTBR1_EL1.
    pub(super) ttbr: [u64; 2],
}

/// Lower or upper half of the address space: one table and its fields in TCR_EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    /// Number of translated address bits.
    bits: u32,
    /// Number of these bits that select a byte in a page.
    page_bits: u32,
    /// The topmost byte is ignored (TBI).
    ignores_top: bool,
}

/// Largest number of address bits, virtual and physical.
const ADDRESS_BITS: u32 = 48;

/// Bits \[to - 1:from\] of `value`, not shifted.
fn part(value: u64, from: u32, to: u32) -> u64 {
    value & ((1 << to) - (1 << from))
}

/// Address in an entry, without the lowest `from` bits.
fn address_from(entry: u64, from: u32) -> u64 {
    part(entry, from, ADDRESS_BITS)
}

impl Regime {
    /// Translates a virtual address. Returns `None` if it is not mapped.
    pub(super) fn translate(&self, memory: &dyn GuestMemory, address: u64) -> Option<Gpa> {
        /// SCTLR_EL1.M: translation is enabled.
        const M: u64 = 1 << 0;
        if self.sctlr & M == 0 {
            return Some(Gpa(address));
        }
        let upper = address >> 55 & 1;
        let range = self.range(upper == 1)?;
        if !range.contains(address, upper) {
            return None;
        }
        let Range { bits, page_bits, .. } = range;
        // A table fills one page with entries of 8 bytes.
        let stride = page_bits - 3;
        let levels = (bits - page_bits).div_ceil(stride);
        // The first table may be smaller than a page, at least 64 bytes.
        let mut table = address_from(self.ttbr[upper as usize], 6);
        let mut top = bits;
        for below in (0..levels).rev() {
            // Lowest bit that this level translates.
            let low = page_bits + stride * below;
            let index = part(address, low, top) >> low;
            let mut entry = [0; 8];
            memory.read(Gpa(table.checked_add(index * 8)?), &mut entry).ok()?;
            let entry = u64::from_le_bytes(entry);
            let (valid, table_or_page) = (entry & 1 == 1, entry & 2 == 2);
            // Largest blocks: 1 GiB and 2 MiB (4 KiB granule), 32 MiB (16 KiB), 512 MiB (64 KiB).
            let largest = if page_bits == 12 { 2 } else { 1 };
            match below {
                _ if !valid => return None,
                0 if !table_or_page => return None,
                1.. if table_or_page => table = address_from(entry, page_bits),
                _ if below > largest => return None,
                _ => return Some(Gpa(address_from(entry, low) | part(address, 0, low))),
            }
            top = low;
        }
        None
    }

    /// Decodes TCR_EL1 for the lower or the upper range. Returns `None` if the range has no table,
    /// or one that is not supported here.
    fn range(&self, upper: bool) -> Option<Range> {
        let tcr = self.tcr;
        // TxSZ, EPDx, TGx, TBIx.
        let (size, none, granule, ignores_top) = match upper {
            false => (tcr, tcr >> 7, [Some(12), Some(16), Some(14), None][(tcr >> 14 & 3) as usize], tcr >> 37),
            true => (tcr >> 16, tcr >> 23, [None, Some(14), Some(12), Some(16)][(tcr >> 30 & 3) as usize], tcr >> 38),
        };
        let (bits, page_bits) = (64 - (size & 0x3f) as u32, granule?);
        let known = (16..=ADDRESS_BITS).contains(&bits) && bits > page_bits && none & 1 == 0;
        known.then_some(Range { bits, page_bits, ignores_top: ignores_top & 1 == 1 })
    }
}

impl Range {
    /// Returns true if all bits above the translated ones have the required value.
    fn contains(&self, address: u64, upper: u64) -> bool {
        let top = if self.ignores_top { 56 } else { 64 };
        let above = (address << (64 - top)) >> (64 - top) >> self.bits;
        above == upper * ((1 << (top - self.bits)) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use hvt_abi::aarch64::{Sctlr, Tcr};

    use crate::memory::fake::FakeMemory;

    const ON: u64 = Sctlr::M.bits();
    const TABLE: u64 = 0b11;
    const BLOCK: u64 = 0b01;

    fn memory(entries: &[(u64, u64)]) -> FakeMemory {
        let memory = FakeMemory::new(0x10_0000, &[]);
        entries.iter().for_each(|(at, entry)| memory.write(Gpa(*at), &entry.to_le_bytes()).unwrap());
        memory
    }

    /// As at the guest's entry point: 40 bits, 4 KiB, lower range only, topmost byte ignored.
    #[test]
    fn translates_as_at_the_entry_point() {
        let memory = memory(&[
            (0x1000, 0x2000 | TABLE),
            (0x2000, 0x3000 | TABLE),
            (0x2020, 0x1_0000_0000 | BLOCK),
            (0x3000, 0x7000 | TABLE),
            (0x3008, 0x20_0000 | BLOCK),
            (0x7008, 0x0060_0000_0000_5703),
            (0x7010, 0x6000 | BLOCK),
        ]);
        let regime = Regime { sctlr: ON, tcr: Tcr::ENTRY.bits(), ttbr: [0x1000, 0x1000] };
        let translate = |address| regime.translate(&memory, address).map(|found| found.0);
        assert_eq!(translate(0x1234), Some(0x5234), "a page, its attributes left out");
        assert_eq!(translate(0x2000), None, "a page without bit 1");
        assert_eq!(translate(0x3000), None);
        assert_eq!(translate(0x3f_ffff), Some(0x3f_ffff), "2 MiB");
        assert_eq!(translate(0x40_0000), None);
        assert_eq!(translate(0x1_3fff_fffc), Some(0x1_3fff_fffc), "1 GiB");
        assert_eq!(translate(0xab00_0000_0000_1008), Some(0x5008), "a tag");
        for address in [1 << 39, 1 << 40, 1 << 47, 0xffff_ffff_ffff_f000, 0xffff_ff00_0000_1000] {
            assert_eq!(translate(address), None, "{address:#x}");
        }
    }

    #[test]
    fn translates_the_upper_range() {
        // T1SZ of 25: 39 bits, three levels.
        let tcr = 2 << 30 | 25 << 16 | 25;
        let memory = memory(&[(0x8ff8, 0x9000 | TABLE), (0x9ff8, 0xa000 | TABLE), (0xaff8, 0x5000 | TABLE)]);
        let regime = Regime { sctlr: ON, tcr, ttbr: [0, 0x8000] };
        let translate = |address| regime.translate(&memory, address).map(|found| found.0);
        assert_eq!(translate(0xffff_ffff_ffff_f123), Some(0x5123));
        assert_eq!(translate(0xffff_ff7f_ffff_f123), None, "not of 39 bits");
        assert_eq!(translate(0x00ff_ffff_ffff_f123), None, "a tag");
        let tagged = Regime { tcr: tcr | 1 << 38, ..regime };
        assert_eq!(tagged.translate(&memory, 0x00ff_ffff_ffff_f123), Some(Gpa(0x5123)));
        let none = Regime { tcr: tcr | 1 << 23, ..regime };
        assert_eq!(none.translate(&memory, 0xffff_ffff_ffff_f123), None, "EPD1");
    }

    #[test]
    fn translates_larger_pages() {
        // 16 KiB: TG0 2, 36 bits, two levels of 11 bits.
        let memory = memory(&[(0x8008, 0xc000 | TABLE), (0xc010, 0x4000 | TABLE), (0x8010, 0x800_0000 | BLOCK)]);
        let regime = Regime { sctlr: ON, tcr: 2 << 14 | (64 - 36), ttbr: [0x8000, 0] };
        assert_eq!(regime.translate(&memory, 0x200_8765), Some(Gpa(0x4765)));
        assert_eq!(regime.translate(&memory, 0x5fe_dcba), Some(Gpa(0x9fe_dcba)), "32 MiB");
        // 64 KiB: TG0 1, 32 bits, two levels, the first of 8 entries.
        let regime = Regime { sctlr: ON, tcr: 1 << 14 | (64 - 32), ttbr: [0x8040, 0] };
        let memory = self::memory(&[(0x8040, 0x2_0000 | TABLE), (0x2_0018, 0x5_0000 | TABLE), (0x8078, BLOCK)]);
        assert_eq!(regime.translate(&memory, 0x3_8765), Some(Gpa(0x5_8765)));
        assert_eq!(regime.translate(&memory, 0xe123_4567), Some(Gpa(0x123_4567)), "512 MiB");
    }

    #[test]
    fn without_translation_addresses_are_physical() {
        let regime = Regime { sctlr: 0, tcr: 0, ttbr: [0; 2] };
        assert_eq!(regime.translate(&memory(&[]), 0x1234), Some(Gpa(0x1234)));
    }

    /// For all contents of the guest's registers and tables.
    #[test]
    fn nonsense_leads_nowhere() {
        let memory = memory(&[(0x1000, u64::MAX), (0x1008, 0x1000 | TABLE)]);
        for tcr in (0..64).flat_map(|shift| [1 << shift, u64::MAX << shift, u64::MAX >> shift]) {
            for address in [0, 0x1000, 1 << 39, u64::MAX, 1 << 55] {
                for ttbr in [0x1000, u64::MAX] {
                    let found = Regime { sctlr: ON, tcr, ttbr: [ttbr; 2] }.translate(&memory, address);
                    assert!(found.is_none_or(|at| at.0 < 1 << ADDRESS_BITS));
                }
            }
        }
    }
}
