//! Permissions of a guest on the regions of its memory.

use alloc::vec::Vec;

use hvt_abi::{Gpa, GuestRange};

use super::Permissions;

/// Page-aligned range of guest memory with the guest's permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Guest addresses.
    pub range: GuestRange,
    /// Permissions of the guest.
    pub access: Permissions,
}

/// Regions of a guest's memory: in ascending order, not overlapping, not empty. Memory outside all
/// regions is not mapped for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    regions: Vec<Region>,
}

impl MemoryMap {
    /// Creates a map of these regions and joins neighbours with equal permissions. Returns `None`
    /// unless the regions are ascending, disjoint and page-aligned. Empty regions are dropped.
    #[must_use]
    pub fn new(regions: impl IntoIterator<Item = Region>) -> Option<Self> {
        let mut joined: Vec<Region> = Vec::new();
        for region in regions {
            let range = region.range;
            if !range.start().is_aligned(hvt_abi::PAGE_SIZE) || !range.end().is_aligned(hvt_abi::PAGE_SIZE) {
                return None;
            }
            if range.is_empty() {
                continue;
            }
            match joined.last_mut() {
                Some(last) if last.range.end() > range.start() => return None,
                Some(last) if last.range.end() == range.start() && last.access == region.access => {
                    last.range = GuestRange::between(last.range.start(), range.end())?;
                }
                _ => joined.push(region),
            }
        }
        Some(Self { regions: joined })
    }

    /// Returns the part of the map below `end`, which must be page-aligned.
    #[must_use]
    pub fn below(&self, end: Gpa) -> Self {
        let clip = |region: &Region| {
            let range = GuestRange::between(region.range.start(), region.range.end().min(end))?;
            (!range.is_empty()).then_some(Region { range, ..*region })
        };
        Self { regions: self.regions.iter().filter_map(clip).collect() }
    }

    /// Regions in ascending order.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Returns the region that contains `address`, if the address is mapped.
    #[must_use]
    pub fn region_at(&self, address: Gpa) -> Option<&Region> {
        let index = self.regions.partition_point(|region| region.range.end() <= address);
        self.regions.get(index).filter(|region| region.range.contains(address))
    }

    /// Returns true if the guest has all permissions of `access` on every byte of `range`, and for
    /// an empty range.
    #[must_use]
    #[inline]
    pub fn allows(&self, range: GuestRange, access: Permissions) -> bool {
        self.all(range, |region| region.access.contains(access))
    }

    /// Returns true if all of `range` is mapped and `each` holds for each of its regions.
    #[inline]
    pub(super) fn all(&self, range: GuestRange, each: impl Fn(&Region) -> bool) -> bool {
        // Fast path: heap and stack lie in the last region, and so do most of the guest's pointers.
        match self.regions.last() {
            Some(last) if !range.is_empty() && last.range.covers(&range) => each(last),
            _ => self.every(range, each),
        }
    }

    #[inline(never)]
    fn every(&self, range: GuestRange, each: impl Fn(&Region) -> bool) -> bool {
        let mut at = range.start();
        while at < range.end() {
            match self.region_at(at) {
                Some(region) if each(region) => at = region.range.end(),
                _ => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(start: u64, end: u64, access: Permissions) -> Region {
        Region { range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(), access }
    }

    fn range(start: u64, len: u64) -> GuestRange {
        GuestRange::new(Gpa(start), len).unwrap()
    }

    #[test]
    fn rejects_invalid_regions() {
        let read = Permissions::READ;
        assert!(MemoryMap::new([region(0x1000, 0x3000, read), region(0x2000, 0x4000, read)]).is_none());
        assert!(MemoryMap::new([region(0x2000, 0x3000, read), region(0x1000, 0x2000, read)]).is_none());
        assert!(MemoryMap::new([region(0x1000, 0x1001, read)]).is_none());
    }

    #[test]
    fn joins_neighbours_and_drops_empty_regions() {
        let memory_map = MemoryMap::new([
            region(0x1000, 0x2000, Permissions::READ),
            region(0x2000, 0x2000, Permissions::WRITE),
            region(0x2000, 0x3000, Permissions::READ),
        ]);
        assert_eq!(memory_map.unwrap().regions(), [region(0x1000, 0x3000, Permissions::READ)]);
    }

    #[test]
    fn below_clips_the_regions() {
        let read = Permissions::READ;
        let memory_map = MemoryMap::new([region(0x1000, 0x2000, read), region(0x3000, 0x6000, read)]).unwrap();
        let below = |end| memory_map.below(Gpa(end)).regions().to_vec();
        assert_eq!(below(0x6000), memory_map.regions());
        assert_eq!(below(0x5000), [region(0x1000, 0x2000, read), region(0x3000, 0x5000, read)]);
        assert_eq!(below(0x3000), [region(0x1000, 0x2000, read)]);
        assert_eq!(below(0x1000), []);
    }

    #[test]
    fn allows_looks_at_every_page() {
        let both = Permissions::READ | Permissions::WRITE;
        let memory_map = MemoryMap::new([
            region(0x1000, 0x2000, Permissions::READ),
            region(0x2000, 0x3000, both),
            region(0x4000, 0x5000, both),
        ])
        .unwrap();
        assert!(memory_map.allows(range(0x1fff, 0x1001), Permissions::READ));
        assert!(!memory_map.allows(range(0x1fff, 2), Permissions::WRITE));
        assert!(!memory_map.allows(range(0x2fff, 2), Permissions::READ), "the hole at 0x3000");
        assert!(!memory_map.allows(range(0xfff, 1), Permissions::READ));
        assert!(memory_map.allows(range(0x4fff, 1), both));
        assert!(!memory_map.allows(range(0x4fff, 2), both));
        assert!(memory_map.allows(range(0x9000, 0), both), "an empty range touches nothing");
    }
}
