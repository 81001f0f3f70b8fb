//! Memory map of a guest above 1 MiB.

use alloc::vec::Vec;

use hvt_abi::ring::Ring;
use hvt_abi::{GUEST_MIN_BASE, Gpa, GuestRange, MEM_MAX, PAGE_SIZE};

use super::{BootConfig, BootError};
use crate::image::Image;
use crate::memory::{Permissions, Region};

/// Regions above 1 MiB in ascending order: segments with the permissions of the file, read and
/// write between and behind them up to the end of memory, and the network ring. A segment without
/// permissions is left out.
pub(super) fn above_1_mib(image: &Image<'_>, config: &BootConfig<'_>) -> Result<Vec<Region>, BootError> {
    let mut regions = Vec::with_capacity(2 * image.segments().len() + 2);
    let free = |from: Gpa, to: Gpa| {
        GuestRange::between(from, to).map(|range| Region { range, access: Permissions::READ | Permissions::WRITE })
    };
    let mut end = GUEST_MIN_BASE;
    for segment in image.segments() {
        regions.extend(free(end, segment.range.start()));
        if !segment.access.is_empty() {
            regions.push(Region { range: segment.range, access: segment.access });
        }
        end = segment.range.end();
    }
    regions.extend(free(end, Gpa(config.mem_size)));
    if let Some(ring) = config.net_ring {
        let end = ring.checked_add(size_of::<Ring>() as u64).and_then(|end| end.checked_align_up(PAGE_SIZE));
        let end = end.filter(|end| end.0 <= MEM_MAX).ok_or(BootError::Ring(ring))?;
        if ring.0 < config.mem_size || !ring.is_aligned(PAGE_SIZE) {
            return Err(BootError::Ring(ring));
        }
        regions.extend(free(ring, end));
    }
    Ok(regions)
}
