//! Page table walker.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

use core::sync::atomic::{AtomicU64, Ordering};

use hvt_abi::{Gpa, GuestRange, Permissions};

use super::format::{ENTRIES, Entry, EntryFormat, Invalidation, Level, MapError, Translation};
use crate::host::{FRAME_SIZE, Host, Hpa, OutOfMemory};

/// Tree of second-level page tables. The tree owns its tables, but not the mapped memory.
///
/// Only the root table may be empty. When permissions change, a table whose 512 entries are
/// equivalent to one leaf is merged into that leaf. A failed operation has no observable effect.
#[derive(Debug)]
pub struct PageTable<F: EntryFormat, H: Host> {
    host: H,
    format: F,
    root: Hpa,
    root_level: Level,
    /// First address beyond the addressable range.
    end: u64,
    /// End of the range that has ever been mapped.
    top: u64,
}

impl<F: EntryFormat, H: Host> PageTable<F, H> {
    /// Creates an empty tree whose root is at `root_level`, for guest addresses of at most
    /// `address_bits` bits.
    ///
    /// # Errors
    /// Returns [`OutOfMemory`] if the kernel has no frame for the root.
    pub fn new(host: &H, format: F, root_level: Level, address_bits: u32) -> Result<Self, OutOfMemory> {
        let root = host.allocate(0).ok_or(OutOfMemory)?;
        let covered = root_level.size().saturating_mul(ENTRIES as u64);
        let addressable = 1_u64.checked_shl(address_bits).unwrap_or(u64::MAX);
        Ok(Self { host: host.clone(), format, root, root_level, end: covered.min(addressable), top: 0 })
    }

    /// Returns the address of the root table.
    #[must_use]
    pub fn root(&self) -> Hpa {
        self.root
    }

    /// Maps `range` to the memory that starts at `hpa`, with leaves as large as the alignment of
    /// both allows.
    ///
    /// No cached translation becomes stale, because CPUs do not cache the absence of a translation.
    ///
    /// # Errors
    /// Returns [`MapError::AlreadyMapped`] if part of the range is mapped, or another [`MapError`]
    /// if an address is invalid or no frame is free.
    pub fn map(&mut self, range: GuestRange, hpa: Hpa, permissions: Permissions) -> Result<(), MapError> {
        let span = self.check(range)?;
        let last = hpa.0.checked_add(range.len().saturating_sub(1)).ok_or(MapError::NotAFrame(hpa))?;
        if !hpa.is_aligned(FRAME_SIZE) || last & !(self.format.address_mask() | (FRAME_SIZE - 1)) != 0 {
            return Err(MapError::NotAFrame(hpa));
        }
        if let Some(mapped) = self.find(self.root, self.root_level, span, true) {
            return Err(MapError::AlreadyMapped(Gpa(mapped)));
        }
        self.top = self.top.max(span.to);
        let page = Page { distance: hpa.0.wrapping_sub(span.from), permissions };
        self.fill(self.root, self.root_level, span, page).map_err(|error| {
            self.clear(self.root, self.root_level, span);
            error.into()
        })
    }

    /// Removes every translation in `range`. Parts of the range may be unmapped already.
    ///
    /// # Errors
    /// Returns [`MapError::OutOfMemory`] if a large page at an end of the range must be split and
    /// the kernel has no frame for the table, or another [`MapError`] if an address is invalid.
    pub fn unmap(&mut self, range: GuestRange) -> Result<Invalidation, MapError> {
        let span = self.check(range)?;
        self.split(span.from)?;
        self.split(span.to)?;
        let changed = self.clear(self.root, self.root_level, span);
        Ok(if changed { Invalidation::of(range) } else { Invalidation::NONE })
    }

    /// Changes the permissions in `range`. The whole range must be mapped.
    ///
    /// # Errors
    /// Returns [`MapError::NotMapped`] if part of the range is not mapped,
    /// [`MapError::OutOfMemory`] if a large page at an end of the range must be split and the
    /// kernel has no frame for the table, or another [`MapError`] if an address is invalid.
    pub fn protect(&mut self, range: GuestRange, permissions: Permissions) -> Result<Invalidation, MapError> {
        let span = self.check(range)?;
        if let Some(hole) = self.find(self.root, self.root_level, span, false) {
            return Err(MapError::NotMapped(Gpa(hole)));
        }
        self.split(span.from)?;
        self.split(span.to)?;
        let granted = self.format.granted(permissions);
        self.shrink(self.root, self.root_level, span, self.format.largest_leaf(granted))?;
        let changed = self.repaint(self.root, self.root_level, span, granted);
        Ok(if changed { Invalidation::of(range) } else { Invalidation::NONE })
    }

    /// Returns the translation of `gpa`, or `None` if the address is not mapped.
    #[must_use]
    #[inline]
    pub fn translate(&self, gpa: Gpa) -> Option<Translation> {
        if gpa.0 >= self.end {
            return None;
        }
        let (mut table, mut level) = (self.root, self.root_level);
        loop {
            match self.format.decode(self.load(table, level.index(gpa.0))) {
                Entry::Empty => return None,
                Entry::Table(next) => (table, level) = (next, level.below()),
                Entry::Leaf(page, permissions) => {
                    let offset = gpa.0 & (level.size() - 1);
                    return Some(Translation { hpa: page.add(offset), permissions, remaining: level.size() - offset });
                }
            }
        }
    }

    /// Returns the first mapped address in `range`.
    #[must_use]
    pub fn first_mapped(&self, range: GuestRange) -> Option<Gpa> {
        let span = Span { from: range.start().0, to: range.end().0.min(self.end) };
        if span.from < span.to { self.find(self.root, self.root_level, span, true).map(Gpa) } else { None }
    }

    fn check(&self, range: GuestRange) -> Result<Span, MapError> {
        for gpa in [range.start(), range.end()] {
            if !gpa.is_aligned(FRAME_SIZE) {
                return Err(MapError::Unaligned(gpa));
            }
            if gpa.0 > self.end {
                return Err(MapError::OutOfRange(gpa));
            }
        }
        Ok(Span { from: range.start().0, to: range.end().0 })
    }

    /// Returns the first address in `span` that is mapped, or the first one that is not if `mapped`
    /// is `false`.
    fn find(&self, table: Hpa, level: Level, span: Span, mapped: bool) -> Option<u64> {
        span.slots(level).find_map(|slot| match self.format.decode(self.load(table, level.index(slot.from))) {
            Entry::Empty => (!mapped).then_some(slot.from),
            Entry::Leaf(..) => mapped.then_some(slot.from),
            Entry::Table(next) => self.find(next, level.below(), slot, mapped),
        })
    }

    /// Maps `span`, which must be empty. On failure part of `span` may be mapped, and tables may be
    /// empty.
    fn fill(&mut self, table: Hpa, level: Level, span: Span, page: Page) -> Result<(), OutOfMemory> {
        let largest = self.format.largest_leaf(self.format.granted(page.permissions));
        for slot in span.slots(level) {
            let hpa = Hpa(page.distance.wrapping_add(slot.from));
            let index = level.index(slot.from);
            if level <= largest && slot.len() == level.size() && hpa.is_aligned(level.size()) {
                self.store(table, index, self.format.leaf(hpa, level, page.permissions));
                continue;
            }
            let next = match self.format.decode(self.load(table, index)) {
                Entry::Table(next) => next,
                Entry::Empty | Entry::Leaf(..) => {
                    let next = self.host.allocate(0).ok_or(OutOfMemory)?;
                    self.store(table, index, self.format.table(next));
                    next
                }
            };
            self.fill(next, level.below(), slot, page)?;
        }
        Ok(())
    }

    /// Splits leaves until a leaf starts at `gpa`.
    fn split(&mut self, gpa: u64) -> Result<(), OutOfMemory> {
        let (mut table, mut level) = (self.root, self.root_level);
        while gpa < self.end && gpa & (level.size() - 1) != 0 {
            let index = level.index(gpa);
            let next = match self.format.decode(self.load(table, index)) {
                Entry::Empty => return Ok(()),
                Entry::Table(next) => next,
                Entry::Leaf(page, permissions) => self.split_leaf(table, index, level, page, permissions)?,
            };
            (table, level) = (next, level.below());
        }
        Ok(())
    }

    /// Splits the leaves of `span` until no leaf is above level `largest`. Leaves at the ends of
    /// `span` must have been split.
    fn shrink(&mut self, table: Hpa, level: Level, span: Span, largest: Level) -> Result<(), OutOfMemory> {
        if level <= largest {
            return Ok(());
        }
        for slot in span.slots(level) {
            let index = level.index(slot.from);
            let next = match self.format.decode(self.load(table, index)) {
                Entry::Empty => continue,
                Entry::Table(next) => next,
                Entry::Leaf(page, permissions) => self.split_leaf(table, index, level, page, permissions)?,
            };
            self.shrink(next, level.below(), slot, largest)?;
        }
        Ok(())
    }

    /// Replaces one leaf by a table of equivalent leaves.
    fn split_leaf(
        &mut self,
        table: Hpa,
        index: usize,
        level: Level,
        page: Hpa,
        permissions: Permissions,
    ) -> Result<Hpa, OutOfMemory> {
        let next = self.host.allocate(0).ok_or(OutOfMemory)?;
        let below = level.below();
        for (i, part) in (0..ENTRIES).zip((page.0..).step_by(below.size() as usize)) {
            self.store(next, i, self.format.leaf(Hpa(part), below, permissions));
        }
        self.store(table, index, self.format.table(next));
        Ok(next)
    }

    /// Unmaps `span` and returns `true` if part of it was mapped. Leaves at the ends of `span` must
    /// have been split.
    fn clear(&mut self, table: Hpa, level: Level, span: Span) -> bool {
        let mut changed = false;
        for slot in span.slots(level) {
            let index = level.index(slot.from);
            match self.format.decode(self.load(table, index)) {
                Entry::Empty => continue,
                Entry::Leaf(..) => self.store(table, index, 0),
                Entry::Table(next) => {
                    if slot.len() < level.size() {
                        changed |= self.clear(next, level.below(), slot);
                        if (0..ENTRIES).any(|i| self.load(next, i) != 0) {
                            continue;
                        }
                    }
                    self.store(table, index, 0);
                    self.release(next, level.below(), slot);
                }
            }
            changed = true;
        }
        changed
    }

    /// Sets the permissions of every leaf in `span`, merges tables if possible, and returns `true`
    /// if an entry has changed. Leaves at the ends of `span` must have been split.
    fn repaint(&mut self, table: Hpa, level: Level, span: Span, permissions: Permissions) -> bool {
        let mut changed = false;
        for slot in span.slots(level) {
            let index = level.index(slot.from);
            match self.format.decode(self.load(table, index)) {
                Entry::Empty => {}
                Entry::Leaf(page, before) => {
                    if before != permissions {
                        self.store(table, index, self.format.leaf(page, level, permissions));
                        changed = true;
                    }
                }
                Entry::Table(next) => {
                    changed |= self.repaint(next, level.below(), slot, permissions);
                    if let Some(page) = self.mergeable(next, level, permissions) {
                        self.store(table, index, self.format.leaf(page, level, permissions));
                        self.release(next, level.below(), Span::NONE);
                        changed = true;
                    }
                }
            }
        }
        changed
    }

    /// Returns the page that a leaf at `level` would map in place of `table`, or `None` if the
    /// table cannot be merged.
    fn mergeable(&self, table: Hpa, level: Level, permissions: Permissions) -> Option<Hpa> {
        let leaf = |index| match self.format.decode(self.load(table, index)) {
            Entry::Leaf(page, granted) if granted == permissions => Some(page),
            _ => None,
        };
        let first =
            leaf(0).filter(|page| level <= self.format.largest_leaf(permissions) && page.is_aligned(level.size()))?;
        let size = level.below().size();
        (1..ENTRIES).all(|i| leaf(i) == Some(first.add(i as u64 * size))).then_some(first)
    }

    /// Frees a table and the tables below it. All of them must lie in `span`.
    fn release(&mut self, table: Hpa, level: Level, span: Span) {
        if level > Level::PAGE {
            for slot in span.slots(level) {
                if let Entry::Table(next) = self.format.decode(self.load(table, level.index(slot.from))) {
                    self.release(next, level.below(), slot);
                }
            }
        }
        // SAFETY: `allocate(0)` returned the table; the only entry that referred to it has been
        // overwritten, or the whole tree is being dropped.
        unsafe { self.host.free(table, 0) }
    }

    #[inline]
    fn load(&self, table: Hpa, index: usize) -> u64 {
        self.entry(table, index).load(Ordering::Relaxed)
    }

    fn store(&mut self, table: Hpa, index: usize, entry: u64) {
        self.entry(table, index).store(entry, Ordering::Relaxed);
    }

    /// Returns the entry: atomic, because the CPU may set accessed and dirty bits in it.
    #[inline]
    fn entry(&self, table: Hpa, index: usize) -> &AtomicU64 {
        let entries = self.host.phys_to_virt(table).cast::<u64>();
        // SAFETY: `table` is a frame that this tree owns, `index` is below 512 (`Level::index`,
        // `0..ENTRIES`), frames are aligned and initialized, and all accesses go through this
        // function.
        unsafe { AtomicU64::from_ptr(entries.add(index)) }
    }
}

impl<F: EntryFormat, H: Host> Drop for PageTable<F, H> {
    fn drop(&mut self) {
        self.release(self.root, self.root_level, Span { from: 0, to: self.top });
    }
}

/// Target of new leaves.
#[derive(Clone, Copy)]
struct Page {
    /// Host address minus guest address.
    distance: u64,
    permissions: Permissions,
}

/// Guest addresses `from..to`, multiples of 4 KiB.
#[derive(Clone, Copy)]
struct Span {
    from: u64,
    to: u64,
}

impl Span {
    const NONE: Self = Self { from: 0, to: 0 };

    const fn len(self) -> u64 {
        self.to - self.from
    }

    /// Splits the span at the boundaries of entries of `level`.
    fn slots(self, level: Level) -> impl Iterator<Item = Self> {
        let mut from = self.from;
        core::iter::from_fn(move || {
            let next = (from | (level.size() - 1)).saturating_add(1).min(self.to);
            let slot = Self { from, to: next };
            from = next;
            (slot.from < slot.to).then_some(slot)
        })
    }
}
