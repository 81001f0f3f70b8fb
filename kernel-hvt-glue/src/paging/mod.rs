//! Second-level page tables: from guest-physical to host-physical addresses.
//!
//! One walker for all formats of entries: radix trees of 512 entries a table, four or five levels deep, with leaves of
//! 4 KiB, 2 MiB and 1 GiB. [`Npt`] is AMD's format, [`Ept`] Intel's.

mod ept;
mod npt;
mod table;
#[cfg(test)]
mod tests;

use hvt_abi::{Gpa, GuestRange, Permissions};

pub use ept::Ept;
pub use npt::Npt;
pub use table::PageTable;

use crate::host::{Hpa, OutOfMemory};

/// Where a guest-physical address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The host-physical address.
    pub hpa: Hpa,
    /// What the guest may do there.
    pub permissions: Permissions,
    /// Bytes from here to the end of the page that maps it.
    pub remaining: u64,
}

/// Why memory could not be mapped, unmapped or protected. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// A guest address is not a multiple of 4 KiB.
    #[error("guest address {0} is not aligned to 4 KiB")]
    Unaligned(Gpa),
    /// A host address is not a multiple of 4 KiB, or beyond what an entry can hold.
    #[error("host address {0} is not one of a frame")]
    NotAFrame(Hpa),
    /// Beyond what the page tables or the CPU can address.
    #[error("guest address {0} is beyond what this CPU can map")]
    OutOfRange(Gpa),
    /// Something is mapped there.
    #[error("guest address {0} is mapped already")]
    AlreadyMapped(Gpa),
    /// Nothing is mapped there.
    #[error("guest address {0} is not mapped")]
    NotMapped(Gpa),
    /// No frame for a table or for guest memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// Depth in the tree: 1 for a table of 4 KiB pages, up to 4 or 5 for the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u8);

impl Level {
    /// The table of 4 KiB pages.
    pub const PAGE: Self = Self(1);
    /// A leaf here maps 2 MiB.
    pub const LARGE: Self = Self(2);
    /// A leaf here maps 1 GiB.
    pub const HUGE: Self = Self(3);
    /// The root of a four-level tree.
    pub const ROOT4: Self = Self(4);
    /// The root of a five-level tree.
    pub const ROOT5: Self = Self(5);

    /// Bytes that one entry at this level covers.
    #[must_use]
    pub const fn size(self) -> u64 {
        1 << self.shift()
    }

    const fn shift(self) -> u32 {
        12 + 9 * (self.0 as u32 - 1)
    }

    /// The index of the entry that covers `gpa`.
    const fn index(self, gpa: u64) -> usize {
        (gpa >> self.shift()) as usize % ENTRIES
    }

    /// The level below; that of [`Level::PAGE`] is itself.
    const fn below(self) -> Self {
        if self.0 > 1 { Self(self.0 - 1) } else { self }
    }
}

/// Entries in a table.
const ENTRIES: usize = 512;

/// What an entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing is mapped.
    Empty,
    /// The table of the next level.
    Table(Hpa),
    /// A page.
    Leaf(Hpa, Permissions),
}

/// How a CPU wants its entries. What [`table`](Self::table) and [`leaf`](Self::leaf) make, [`decode`](Self::decode)
/// understands, whatever bits the CPU has added since (accessed, dirty). An empty entry is 0.
pub trait EntryFormat: Copy {
    /// The entry that leads to a table; permissions are granted there and decided at the leaf.
    fn table(self, table: Hpa) -> u64;

    /// The entry that maps a page at this level. A leaf without permissions is not [`Entry::Empty`]: it remembers what
    /// it maps.
    fn leaf(self, page: Hpa, level: Level, permissions: Permissions) -> u64;

    /// What an entry means.
    fn decode(self, entry: u64) -> Entry;

    /// The permissions that a leaf grants when these are asked for.
    fn granted(self, permissions: Permissions) -> Permissions;

    /// The highest level that may hold a leaf which grants these permissions.
    fn largest_leaf(self, permissions: Permissions) -> Level;
}

/// Translations that a CPU may have cached and that are no longer true. Whoever changes page tables sees to it that
/// they are flushed before the guest runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the guest may use stale translations until they are flushed"]
pub struct Invalidation(Option<GuestRange>);

impl Invalidation {
    /// Nothing is stale.
    pub const NONE: Self = Self(None);

    /// Translations in this range are stale.
    pub const fn of(range: GuestRange) -> Self {
        Self(Some(range))
    }

    /// The stale range, if any.
    #[must_use]
    pub const fn range(self) -> Option<GuestRange> {
        self.0
    }
}

/// Bits that the two x86 formats share.
mod x86 {
    use crate::host::Hpa;

    /// Bits 51:12: the address of a table or page.
    pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// Bit 7: a leaf above the lowest level.
    pub(super) const PAGE_SIZE: u64 = 1 << 7;
    /// Bit 11, ignored by the CPU in both formats: this entry is a leaf, even if it grants nothing.
    pub(super) const LEAF: u64 = 1 << 11;

    pub(super) const fn address(entry: u64) -> Hpa {
        Hpa(entry & ADDRESS)
    }
}
