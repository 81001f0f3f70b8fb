//! Pages of guest memory that are closed to the guest because of watchpoints.

use std::collections::BTreeMap;

use hvt_abi::{Gpa, GuestRange, PAGE_SIZE};

use super::protocol::protection;
use super::setup::{PROTECTIONS_MAX, Protection};
use crate::backend::debug::Watch;
use crate::memory::{MemoryMap, Permissions};

/// Closed pages by guest address, each with its remaining protection.
#[derive(Debug, Default)]
pub(super) struct Guards {
    wanted: BTreeMap<u64, libc::c_int>,
    /// State applied in the child.
    applied: BTreeMap<u64, libc::c_int>,
}

impl Guards {
    /// Closes the pages of these watchpoints, and no others, from the next run on. Returns false
    /// without any change if a page is not mapped, or if the pages are more than one script can
    /// change.
    pub(super) fn set(&mut self, watches: &[Watch], memory_map: &MemoryMap) -> bool {
        let mut wanted = BTreeMap::new();
        for watch in watches {
            let first = watch.start & !(PAGE_SIZE - 1);
            let pages = (first..watch.end()).step_by(PAGE_SIZE as usize);
            for page in pages.take(PROTECTIONS_MAX + 1) {
                let Some(region) = memory_map.region_at(Gpa(page)) else { return false };
                let left = if watch.reads { libc::PROT_NONE } else { protection(region.access - Permissions::WRITE) };
                *wanted.entry(page).or_insert(left) &= left;
            }
        }
        // The same script may have to open the pages of the previous watchpoints.
        if wanted.len() > PROTECTIONS_MAX / 2 {
            return false;
        }
        self.wanted = wanted;
        true
    }

    /// Returns true if this page is closed.
    pub(super) fn contains(&self, page: u64) -> bool {
        self.wanted.contains_key(&page)
    }

    /// Returns the changes that the child must make before the guest runs with the pages `opened`
    /// open. They count as applied from then on.
    pub(super) fn changes(&mut self, opened: &[u64], memory_map: &MemoryMap) -> Vec<Protection> {
        if self.wanted.is_empty() && self.applied.is_empty() {
            return Vec::new();
        }
        let is_open = |page: &&u64| !opened.contains(page);
        let wanted: BTreeMap<_, _> =
            self.wanted.iter().filter(|(page, _)| is_open(page)).map(|(page, bits)| (*page, *bits)).collect();
        let open = self.applied.keys().filter(|page| !wanted.contains_key(page)).map(|page| {
            let access = memory_map.region_at(Gpa(*page)).map_or(Permissions::empty(), |region| region.access);
            (*page, protection(access))
        });
        let close = wanted.iter().filter(|(page, bits)| self.applied.get(page) != Some(bits));
        let all = open.chain(close.map(|(page, bits)| (*page, *bits)));
        let changes = all
            .filter_map(|(page, bits)| GuestRange::new(Gpa(page), PAGE_SIZE).map(|range| Protection { range, bits }));
        let changes = changes.collect();
        self.applied = wanted;
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Region;
    use libc::{PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE};

    fn memory_map() -> MemoryMap {
        let region = |start, end, access| Region { range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(), access };
        MemoryMap::new([
            region(0x10_0000, 0x10_2000, Permissions::READ | Permissions::EXECUTE),
            region(0x10_2000, 0x20_0000, Permissions::READ | Permissions::WRITE),
        ])
        .unwrap()
    }

    fn watch(start: u64, len: u64, reads: bool) -> Watch {
        Watch { start, len, reads }
    }

    fn pairs(changes: &[Protection]) -> Vec<(u64, i32)> {
        changes.iter().map(|change| (change.range.start().0, change.bits)).collect()
    }

    #[test]
    fn a_page_is_closed_opened_and_closed_again() {
        let (mut guards, memory_map) = (Guards::default(), memory_map());
        assert!(guards.changes(&[], &memory_map).is_empty());
        assert!(
            guards.set(
                &[watch(0x10_2ff8, 16, false), watch(0x10_3800, 1, true), watch(0x10_1000, 1, false)],
                &memory_map
            )
        );
        let closed = [(0x10_1000, PROT_READ | PROT_EXEC), (0x10_2000, PROT_READ), (0x10_3000, PROT_NONE)];
        assert_eq!(pairs(&guards.changes(&[], &memory_map)), closed);
        assert!(guards.changes(&[], &memory_map).is_empty(), "it has been done");
        assert_eq!(pairs(&guards.changes(&[0x10_3000], &memory_map)), [(0x10_3000, PROT_READ | PROT_WRITE)]);
        assert_eq!(pairs(&guards.changes(&[], &memory_map)), [(0x10_3000, PROT_NONE)]);
        assert!(guards.set(&[], &memory_map));
        let open = [
            (0x10_1000, PROT_READ | PROT_EXEC),
            (0x10_2000, PROT_READ | PROT_WRITE),
            (0x10_3000, PROT_READ | PROT_WRITE),
        ];
        assert_eq!(pairs(&guards.changes(&[], &memory_map)), open);
    }

    #[test]
    fn what_cannot_be_watched_is_refused_and_changes_nothing() {
        let (mut guards, memory_map) = (Guards::default(), memory_map());
        for bad in [watch(0xf_ffff, 8, false), watch(0x1f_fffc, 8, false), watch(0x10_2000, 1 << 20, false)] {
            assert!(!guards.set(&[bad], &memory_map), "{bad:?}");
        }
        assert!(!guards.set(&[watch(u64::MAX - 3, 16, true)], &memory_map));
        assert!(guards.changes(&[], &memory_map).is_empty());
    }
}
