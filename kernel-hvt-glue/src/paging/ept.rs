//! Intel's extended page tables (SDM volume 3, 29.3).

use hvt_abi::Permissions;

use super::{
    format::{Entry, EntryFormat, Level},
    x86,
};
use crate::host::Hpa;

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
/// Memory type write-back, bits 5:3 of a leaf. "Ignore PAT" stays 0: the guest's PAT may weaken it.
const WRITE_BACK: u64 = 6 << 3;
/// Preset, so that the CPU need not set the bit (ignored if accessed and dirty flags are disabled).
const ACCESSED: u64 = 1 << 8;
/// Preset, so that the CPU need not set the bit (ignored if accessed and dirty flags are disabled).
const DIRTY: u64 = 1 << 9;

/// Format of Intel's extended page tables, with the capabilities of IA32_VMX_EPT_VPID_CAP (SDM
/// appendix A.10).
#[derive(Clone, Copy, Debug)]
pub struct Ept {
    /// Bit 0: execute-only pages.
    pub execute_only: bool,
    /// Bit 16: pages of 2 MiB.
    pub large_pages: bool,
    /// Bit 17: pages of 1 GiB.
    pub huge_pages: bool,
    /// Limits executable pages to 4 KiB. Set if IA32_ARCH_CAPABILITIES.IF_PSCHANGE_MC_NO is clear:
    /// on such a CPU a guest can cause a machine check by changing the size of an executable page.
    /// (Not a bit of IA32_VMX_EPT_VPID_CAP.)
    pub small_code: bool,
}

impl EntryFormat for Ept {
    fn table(self, table: Hpa) -> u64 {
        table.0 | READ | WRITE | EXECUTE | ACCESSED
    }

    fn leaf(self, page: Hpa, level: Level, permissions: Permissions) -> u64 {
        let granted = self.granted(permissions);
        let mut entry = page.0 | ACCESSED | DIRTY | x86::LEAF;
        for (permission, bit) in
            [(Permissions::READ, READ), (Permissions::WRITE, WRITE), (Permissions::EXECUTE, EXECUTE)]
        {
            if granted.contains(permission) {
                entry |= bit | WRITE_BACK;
            }
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
        permissions.set(Permissions::READ, entry & READ != 0);
        permissions.set(Permissions::WRITE, entry & WRITE != 0);
        permissions.set(Permissions::EXECUTE, entry & EXECUTE != 0);
        Entry::Leaf(x86::address(entry), permissions)
    }

    /// Write-only is a misconfiguration; execute-only is one if the CPU does not support it (SDM
    /// 29.3.3.1).
    fn granted(self, permissions: Permissions) -> Permissions {
        let needs_read = permissions.contains(Permissions::WRITE)
            || permissions.contains(Permissions::EXECUTE) && !self.execute_only;
        if needs_read { permissions | Permissions::READ } else { permissions }
    }

    fn largest_leaf(self, permissions: Permissions) -> Level {
        if self.small_code && permissions.contains(Permissions::EXECUTE) {
            return Level::PAGE;
        }
        match (self.large_pages, self.huge_pages) {
            (true, true) => Level::HUGE,
            (true, false) => Level::LARGE,
            (false, _) => Level::PAGE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_those_of_sdm_tables_29_1_to_29_7() {
        let format = Ept { execute_only: true, large_pages: true, huge_pages: true, small_code: false };
        assert_eq!(format.table(Hpa(0x1000)), 0x1107);
        assert_eq!(format.leaf(Hpa(0x2000), Level::PAGE, Permissions::all()), 0x2b37);
        assert_eq!(format.leaf(Hpa(0x20_0000), Level::LARGE, Permissions::all()), 0x20_0bb7);
        assert_eq!(format.leaf(Hpa(0x2000), Level::PAGE, Permissions::EXECUTE), 0x2b34);
        assert_eq!(format.leaf(Hpa(0x2000), Level::PAGE, Permissions::WRITE), 0x2b33);
        assert_eq!(format.leaf(Hpa(0x2000), Level::PAGE, Permissions::empty()) & 0x3f, 0);
        let readable = Ept { execute_only: false, ..format };
        assert_eq!(readable.leaf(Hpa(0x2000), Level::PAGE, Permissions::EXECUTE), 0x2b35);
    }
}
