//! AMD's nested page tables (APM volume 2, 15.25): the format of ordinary long-mode page tables.

use hvt_abi::Permissions;

use super::{
    format::{Entry, EntryFormat, Level},
    x86,
};
use crate::host::Hpa;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
/// Every nested access counts as a user-mode access (15.25.5).
const USER: u64 = 1 << 2;
/// Preset, so that the CPU need not set the bit.
const ACCESSED: u64 = 1 << 5;
/// Preset, so that the CPU need not set the bit.
const DIRTY: u64 = 1 << 6;
const NO_EXECUTE: u64 = 1 << 63;

/// Format of AMD's nested page tables. Requires EFER.NXE in the host.
#[derive(Clone, Copy, Debug)]
pub struct Npt {
    /// CPUID 8000_0001h EDX bit 26: pages of 1 GiB.
    pub huge_pages: bool,
}

impl EntryFormat for Npt {
    fn table(self, table: Hpa) -> u64 {
        table.0 | PRESENT | WRITABLE | USER | ACCESSED
    }

    fn leaf(self, page: Hpa, level: Level, permissions: Permissions) -> u64 {
        let mut entry = page.0 | USER | ACCESSED | DIRTY | x86::LEAF;
        if !permissions.is_empty() {
            entry |= PRESENT;
        }
        if permissions.contains(Permissions::WRITE) {
            entry |= WRITABLE;
        }
        if !permissions.contains(Permissions::EXECUTE) {
            entry |= NO_EXECUTE;
        }
        if level > Level::PAGE {
            entry |= x86::PAGE_SIZE;
        }
        entry
    }

    fn address_mask(self) -> u64 {
        x86::ADDRESS
    }

    fn decode(self, entry: u64) -> Entry {
        if entry == 0 {
            return Entry::Empty;
        }
        if entry & x86::LEAF == 0 {
            return Entry::Table(x86::address(entry));
        }
        let mut permissions = Permissions::empty();
        if entry & PRESENT != 0 {
            permissions |= Permissions::READ;
            permissions.set(Permissions::WRITE, entry & WRITABLE != 0);
            permissions.set(Permissions::EXECUTE, entry & NO_EXECUTE == 0);
        }
        Entry::Leaf(x86::address(entry), permissions)
    }

    fn granted(self, permissions: Permissions) -> Permissions {
        if permissions.is_empty() { permissions } else { permissions | Permissions::READ }
    }

    fn largest_leaf(self, _permissions: Permissions) -> Level {
        if self.huge_pages { Level::HUGE } else { Level::LARGE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_those_of_apm_figures_5_21_to_5_25() {
        let format = Npt { huge_pages: true };
        let rwx = Permissions::all();
        assert_eq!(format.table(Hpa(0x1000)), 0x1027);
        assert_eq!(format.leaf(Hpa(0x2000), Level::PAGE, rwx), 0x2867);
        assert_eq!(format.leaf(Hpa(0x20_0000), Level::LARGE, rwx), 0x20_08e7);
        assert_eq!(format.leaf(Hpa(0x2000), Level::PAGE, Permissions::READ), 0x8000_0000_0000_2865);
        assert_eq!(format.leaf(Hpa(0x2000), Level::PAGE, Permissions::EXECUTE), 0x2865);
        assert_eq!(format.leaf(Hpa(0x2000), Level::PAGE, Permissions::empty()) & PRESENT, 0);
    }
}
