//! The terms of second-level page tables: levels, entries, errors, and what a format has to say.

use hvt_abi::{Gpa, GuestRange, Permissions};

use crate::host::{Hpa, OutOfMemory};

/// Result of a translation of a guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The host-physical address.
    pub hpa: Hpa,
    /// Permissions of the guest there.
    pub permissions: Permissions,
    /// Bytes from here to the end of the page that maps it.
    pub remaining: u64,
}

/// Reason why memory could not be mapped, unmapped or protected. Nothing has changed.
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
    pub(super) const fn index(self, gpa: u64) -> usize {
        (gpa >> self.shift()) as usize % ENTRIES
    }

    /// The level below; that of [`Level::PAGE`] is itself.
    pub(super) const fn below(self) -> Self {
        if self.0 > 1 { Self(self.0 - 1) } else { self }
    }
}

/// Entries in a table.
pub(super) const ENTRIES: usize = 512;

/// Meaning of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing is mapped.
    Empty,
    /// The table of the next level.
    Table(Hpa),
    /// A page.
    Leaf(Hpa, Permissions),
}

/// Format of entries. [`decode`](Self::decode) reads the entries that [`table`](Self::table) and [`leaf`](Self::leaf)
/// make, whatever bits the CPU has added since (accessed, dirty). An empty entry is 0.
pub trait EntryFormat: Copy + Send + Sync + 'static {
    /// The entry that leads to a table; permissions are granted there and decided at the leaf.
    fn table(self, table: Hpa) -> u64;

    /// The entry that maps a page at this level. A leaf without permissions is not [`Entry::Empty`]: it remembers what
    /// it maps.
    fn leaf(self, page: Hpa, level: Level, permissions: Permissions) -> u64;

    /// Returns the meaning of an entry.
    fn decode(self, entry: u64) -> Entry;

    /// The bits of a host address that an entry can hold, for 4 KiB aligned ones.
    fn address_mask(self) -> u64;

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
