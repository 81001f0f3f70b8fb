//! The guest's first page tables: four levels of 512 entries, pages of 4 KiB and 2 MiB, guest-virtual = guest-physical.
//!
//! A 2 MiB page is used wherever a region covers one; where regions meet inside 2 MiB, a table of 4 KiB pages is. The
//! first of those tables is that of the first 2 MiB, at the place where Solo5 has it; further ones fill the space up to
//! 0x10000, then go downward from 1 MiB (on aarch64 from the page of exception vectors), where they are taken out of what
//! the guest can see.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::vec;
use alloc::vec::Vec;
use core::marker::PhantomData;

use hvt_abi::{GUEST_MIN_BASE, GUEST_VISIBLE_BASE, Gpa, GuestRange, PAGE_SIZE};
use zerocopy::IntoBytes;

use super::BootError;
use crate::memory::{GuestMemory, MemoryMap, OutOfMemory, Permissions, Region};

/// Entries of a table.
const ENTRIES: usize = 512;
/// Bytes that an entry of a directory maps (2 MiB).
const BLOCK_SIZE: u64 = PAGE_SIZE * ENTRIES as u64;
/// Directories: one for each GiB that a guest may have.
const DIRECTORIES: usize = 4;

/// How an architecture writes its tables, and where they lie.
pub(super) trait Format {
    /// The table that the CPU is pointed to.
    const ROOT: Gpa;
    /// The table below, whose entries map 1 GiB each.
    const UPPER: Gpa;
    /// The four directories, whose entries map 2 MiB each.
    const DIRECTORIES: Gpa;
    /// The first table whose entries map 4 KiB each.
    const LEAVES: Gpa;
    /// The entry of the upper table behind those of the directories, where hypercalls are made through memory: it maps
    /// the GiB above all that a guest can have.
    const DEVICES: Option<u64>;
    /// What the CPU looks up in memory besides page tables, and where that lies.
    const DESCRIPTORS: Option<(Gpa, &'static [u64])>;
    /// What the CPU executes of the tender's, and where that lies: at the start of the last page below 1 MiB.
    const VECTORS: Option<(Gpa, &'static [u64])>;

    /// End of what can be put below 1 MiB besides.
    const LOW_END: Gpa = match Self::VECTORS {
        Some((at, _)) => at,
        None => GUEST_MIN_BASE,
    };

    /// An entry that points to the table at `at`.
    fn table(at: Gpa) -> u64;
    /// An entry of a directory that maps the 2 MiB at `at`.
    fn block(at: Gpa, access: Permissions) -> u64;
    /// An entry of a table that maps the 4 KiB at `at`.
    fn page(at: Gpa, access: Permissions) -> u64;
}

/// The tables of a guest, to be written to its memory.
#[derive(Debug)]
pub(super) struct Tables {
    tables: Vec<(Gpa, Vec<u64>)>,
}

impl Tables {
    /// Maps `regions`, which ascend and lie above 1 MiB, and what the guest can see below 1 MiB: for reading from 0x10000 to
    /// `info_end` at least, and what it executes there.
    pub(super) fn map<F: Format>(regions: Vec<Region>, info_end: Gpa) -> Result<(MemoryMap, Self), BootError> {
        // Neighbours of equal access are one region now, so that a 2 MiB page can cover both.
        let above = MemoryMap::new(regions).ok_or(BootError::Regions)?;
        let mut builder = Builder::<F>::new(info_end);
        for region in above.regions() {
            builder.map(region)?;
        }
        let visible = GuestRange::between(GUEST_VISIBLE_BASE, builder.pool.high)
            .map(|range| Region { range, access: Permissions::READ });
        let vectors = F::VECTORS
            .and_then(|(at, _)| GuestRange::between(at, GUEST_MIN_BASE))
            .map(|range| Region { range, access: Permissions::READ | Permissions::EXECUTE });
        let low = visible.into_iter().chain(vectors);
        for region in low.clone() {
            builder.map(&region)?;
        }
        let memory_map = MemoryMap::new(low.chain(above.regions().iter().copied()));
        let memory_map = memory_map.ok_or(BootError::Regions)?;
        Ok((memory_map, builder.finish()))
    }

    /// Writes the tables. What they do not fill of their pages must be zero.
    pub(super) fn write(&self, memory: &dyn GuestMemory) -> Result<(), OutOfMemory> {
        self.tables.iter().try_for_each(|(at, entries)| memory.write(*at, entries.as_bytes()))
    }
}

struct Builder<F> {
    directories: Vec<u64>,
    /// By the number of the 2 MiB that they map.
    leaves: BTreeMap<usize, Leaf>,
    pool: Pool,
    format: PhantomData<F>,
}

struct Leaf {
    at: Gpa,
    entries: Vec<u64>,
}

impl<F: Format> Builder<F> {
    /// No tables but that of the first 2 MiB, which comes first in the pool.
    fn new(info_end: Gpa) -> Self {
        let first = Leaf { at: F::LEAVES, entries: vec![0; ENTRIES] };
        let pool = Pool { low: Gpa(F::LEAVES.0 + PAGE_SIZE), high: F::LOW_END, info_end };
        let directories = vec![0; DIRECTORIES * ENTRIES];
        Self { directories, leaves: BTreeMap::from([(0, first)]), pool, format: PhantomData }
    }

    fn map(&mut self, region: &Region) -> Result<(), BootError> {
        let end = region.range.end().0;
        let mut at = region.range.start();
        while at.0 < end {
            let block = (at.0 / BLOCK_SIZE) as usize;
            if at.is_aligned(BLOCK_SIZE) && end - at.0 >= BLOCK_SIZE {
                self.directories[block] = F::block(at, in_tables(region.access));
                at.0 += BLOCK_SIZE;
            } else {
                let page = (at.0 / PAGE_SIZE) as usize % ENTRIES;
                self.leaf(block)?.entries[page] = F::page(at, in_tables(region.access));
                at.0 += PAGE_SIZE;
            }
        }
        Ok(())
    }

    fn leaf(&mut self, block: usize) -> Result<&mut Leaf, BootError> {
        Ok(match self.leaves.entry(block) {
            Entry::Occupied(leaf) => leaf.into_mut(),
            Entry::Vacant(place) => place.insert(Leaf { at: self.pool.take()?, entries: vec![0; ENTRIES] }),
        })
    }

    fn finish(mut self) -> Tables {
        for (block, leaf) in &self.leaves {
            self.directories[*block] = F::table(leaf.at);
        }
        let directory = |index: usize| Gpa(F::DIRECTORIES.0 + index as u64 * PAGE_SIZE);
        let upper = (0..DIRECTORIES).map(|index| F::table(directory(index))).chain(F::DEVICES).collect();
        let mut tables = vec![(F::ROOT, vec![F::table(F::UPPER)]), (F::UPPER, upper)];
        tables.extend([F::DESCRIPTORS, F::VECTORS].into_iter().flatten().map(|(at, words)| (at, words.to_vec())));
        let directories = self.directories.chunks(ENTRIES).enumerate();
        let used = directories.filter(|(_, entries)| entries.iter().any(|entry| *entry != 0));
        tables.extend(used.map(|(index, entries)| (directory(index), entries.to_vec())));
        tables.extend(self.leaves.into_values().map(|leaf| (leaf.at, leaf.entries)));
        Tables { tables }
    }
}

/// What the tables say about memory of this access. Code is not protected from writes here but by what lies below, the
/// host's mapping: a guest that writes there is beyond help, so the tender ends it, as Solo5's does, instead of calling
/// its exception handler.
fn in_tables(access: Permissions) -> Permissions {
    if access.contains(Permissions::EXECUTE) { access | Permissions::WRITE } else { access }
}

/// Where the next table goes.
struct Pool {
    /// First free page below 0x10000.
    low: Gpa,
    /// First page taken below 1 MiB.
    high: Gpa,
    /// What must not be reached from above.
    info_end: Gpa,
}

impl Pool {
    fn take(&mut self) -> Result<Gpa, BootError> {
        if self.low < GUEST_VISIBLE_BASE {
            let at = self.low;
            self.low.0 += PAGE_SIZE;
            Ok(at)
        } else if self.high > self.info_end {
            self.high.0 -= PAGE_SIZE;
            Ok(self.high)
        } else {
            Err(BootError::Scattered)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::Native;

    /// No image leads here: the parser refuses such segments. Who changes that gets an error, and not a panic.
    #[test]
    fn regions_that_overlap_or_are_no_pages_are_refused() {
        let region = |start, end| Region {
            range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(),
            access: Permissions::READ,
        };
        let map = |regions| Tables::map::<Native>(regions, Gpa(0x1_1000)).map(|_| ());
        assert_eq!(map(vec![region(0x10_0000, 0x10_2000), region(0x10_2000, 0x10_3000)]), Ok(()));
        assert_eq!(map(vec![region(0x10_0000, 0x10_2000), region(0x10_1000, 0x10_3000)]), Err(BootError::Regions));
        assert_eq!(map(vec![region(0x10_0000, 0x10_0800)]), Err(BootError::Regions));
    }
}
