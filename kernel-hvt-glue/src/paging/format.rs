//! Terms of second-level page tables: levels, entries, errors, and the trait of entry formats.

use hvt_abi::{Gpa, GuestRange, Permissions};

use crate::host::{Hpa, OutOfMemory};

/// Result of a translation of a guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The host-physical address.
    pub hpa: Hpa,
    /// Permissions of the guest at this address.
    pub permissions: Permissions,
    /// Bytes from this address to the end of its page.
    pub remaining: u64,
}

/// Error of mapping, unmapping or protecting memory. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// A guest address is not a multiple of 4 KiB.
    #[error("guest address {0} is not aligned to 4 KiB")]
    Unaligned(Gpa),
    /// A host address is not a multiple of 4 KiB, or beyond what an entry can hold.
    #[error("host address {0} is not a valid frame address")]
    NotAFrame(Hpa),
    /// The address exceeds the limits of the page tables or of the CPU.
    #[error("guest address {0} is beyond what this CPU can map")]
    OutOfRange(Gpa),
    /// The address is mapped already.
    #[error("guest address {0} is mapped already")]
    AlreadyMapped(Gpa),
    /// The address is not mapped.
    #[error("guest address {0} is not mapped")]
    NotMapped(Gpa),
    /// No frame is free for a table or for guest memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// Depth in the tree: 1 for a table of 4 KiB pages, up to 4 or 5 for the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u8);

impl Level {
    /// Table of 4 KiB pages.
    pub const PAGE: Self = Self(1);
    /// Table with leaves of 2 MiB.
    pub const LARGE: Self = Self(2);
    /// Table with leaves of 1 GiB.
    pub const HUGE: Self = Self(3);
    /// Root of a four-level tree.
    pub const ROOT4: Self = Self(4);
    /// Root of a five-level tree.
    pub const ROOT5: Self = Self(5);

    /// Returns the number of bytes that one entry at this level covers.
    #[must_use]
    pub const fn size(self) -> u64 {
        1 << self.shift()
    }

    const fn shift(self) -> u32 {
        12 + 9 * (self.0 as u32 - 1)
    }

    /// Returns the index of the entry that covers `gpa`.
    pub(super) const fn index(self, gpa: u64) -> usize {
        (gpa >> self.shift()) as usize % ENTRIES
    }

    /// Returns the next lower level; for [`Level::PAGE`], the same level.
    pub(super) const fn below(self) -> Self {
        if self.0 > 1 { Self(self.0 - 1) } else { self }
    }
}

/// Number of entries in a table.
pub(super) const ENTRIES: usize = 512;

/// Decoded entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The entry maps no memory.
    Empty,
    /// The entry refers to a table of the next level.
    Table(Hpa),
    /// The entry maps a page.
    Leaf(Hpa, Permissions),
}

/// Format of page table entries.
///
/// [`decode`](Self::decode) reads the entries that [`table`](Self::table) and [`leaf`](Self::leaf)
/// create. It ignores bits that the CPU has set since (accessed, dirty). An empty entry is 0.
pub trait EntryFormat: Copy + Send + Sync + 'static {
    /// Returns an entry that refers to a table. The entry grants all permissions; the leaf
    /// restricts them.
    fn table(self, table: Hpa) -> u64;

    /// Returns an entry that maps a page at this level. A leaf without permissions is different
    /// from [`Entry::Empty`], and keeps the page's address.
    fn leaf(self, page: Hpa, level: Level, permissions: Permissions) -> u64;

    /// Returns the meaning of an entry.
    fn decode(self, entry: u64) -> Entry;

    /// Returns the mask of address bits that an entry can hold, for 4 KiB aligned addresses.
    fn address_mask(self) -> u64;

    /// Returns the permissions that a leaf grants if `permissions` are requested.
    fn granted(self, permissions: Permissions) -> Permissions;

    /// Returns the highest level that supports a leaf with these permissions.
    fn largest_leaf(self, permissions: Permissions) -> Level;
}

/// Stale translations that a CPU may have cached. Code that changes page tables must flush them
/// before the guest runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the guest may use stale translations until they are flushed"]
pub struct Invalidation(Option<GuestRange>);

impl Invalidation {
    /// No translation is stale.
    pub const NONE: Self = Self(None);

    /// Creates a value for translations in this range.
    pub const fn of(range: GuestRange) -> Self {
        Self(Some(range))
    }

    /// Returns the stale range, if any.
    #[must_use]
    pub const fn range(self) -> Option<GuestRange> {
        self.0
    }
}
