//! Initial page tables of the guest: four levels of 512 entries, pages of 4 KiB and 2 MiB,
//! identity-mapped.
//!
//! A 2 MiB page is used if one region covers all of it; otherwise a table of 4 KiB pages is used.
//! The first such table maps the first 2 MiB and lies where Solo5 puts it. Further tables fill the
//! space up to 0x10000, then continue downward from 1 MiB (on aarch64 from the page of exception
//! vectors). These pages are removed from the memory that the guest can see.
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
/// Bytes mapped by an entry of a directory (2 MiB).
const BLOCK_SIZE: u64 = PAGE_SIZE * ENTRIES as u64;
/// Number of directories: one for each GiB of the largest guest memory.
const DIRECTORIES: usize = 4;

/// Format and location of an architecture's page tables.
pub(super) trait Format {
    /// Root table, to which CR3 or TTBR0_EL1 points.
    const ROOT: Gpa;
    /// Table below the root; its entries map 1 GiB each.
    const UPPER: Gpa;
    /// The four directories; their entries map 2 MiB each.
    const DIRECTORIES: Gpa;
    /// First table with entries that map 4 KiB each.
    const LEAVES: Gpa;
    /// Entry of the upper table behind the entries of the directories. It maps the GiB above the
    /// largest guest memory, where hypercalls are made through memory.
    const DEVICES: Option<u64>;
    /// Other structures that the CPU reads from memory, with their address.
    const DESCRIPTORS: Option<(Gpa, &'static [u64])>;
    /// Code of the tender that the CPU executes, with its address at the start of the last page
    /// below 1 MiB.
    const VECTORS: Option<(Gpa, &'static [u64])>;

    /// End of the space for further tables below 1 MiB.
    const LOW_END: Gpa = match Self::VECTORS {
        Some((at, _)) => at,
        None => GUEST_MIN_BASE,
    };

    /// Returns an entry that points to the table at `at`.
    fn table(at: Gpa) -> u64;
    /// Returns a directory entry that maps the 2 MiB at `at`.
    fn block(at: Gpa, access: Permissions) -> u64;
    /// Returns a table entry that maps the 4 KiB at `at`.
    fn page(at: Gpa, access: Permissions) -> u64;
}

/// Page tables of a guest, ready to be written to its memory.
#[derive(Debug)]
pub(super) struct Tables {
    tables: Vec<(Gpa, Vec<u64>)>,
}

impl Tables {
    /// Maps `regions`, which must be ascending and above 1 MiB, and the memory below 1 MiB that the
    /// guest can see: read-only from 0x10000 to at least `info_end`, and the executable vectors.
    pub(super) fn map<F: Format>(regions: Vec<Region>, info_end: Gpa) -> Result<(MemoryMap, Self), BootError> {
        // Neighbours with equal permissions are joined here, so that a 2 MiB page can cover both.
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

    /// Writes the tables. The unused parts of their pages must be zero.
    pub(super) fn write(&self, memory: &dyn GuestMemory) -> Result<(), OutOfMemory> {
        self.tables.iter().try_for_each(|(at, entries)| memory.write(*at, entries.as_bytes()))
    }
}

struct Builder<F> {
    directories: Vec<u64>,
    /// Leaf tables by the number of the 2 MiB block that they map.
    leaves: BTreeMap<usize, Leaf>,
    pool: Pool,
    format: PhantomData<F>,
}

struct Leaf {
    at: Gpa,
    entries: Vec<u64>,
}

impl<F: Format> Builder<F> {
    /// Creates a builder with the table of the first 2 MiB only, which comes first in the pool.
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

/// Permissions in the page tables for memory with permissions `access`. Code is write-protected not
/// in these tables but by the host's mapping underneath. A guest that writes to code is therefore
/// ended by the tender, as with Solo5, instead of entering its exception handler.
fn in_tables(access: Permissions) -> Permissions {
    if access.contains(Permissions::EXECUTE) { access | Permissions::WRITE } else { access }
}

/// Allocator of pages for tables.
struct Pool {
    /// First free page below 0x10000.
    low: Gpa,
    /// Lowest page taken below 1 MiB.
    high: Gpa,
    /// Lower limit of pages taken from above.
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

    /// No image leads here, because the parser rejects such segments. If the parser changes, the
    /// result is an error instead of a panic.
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
