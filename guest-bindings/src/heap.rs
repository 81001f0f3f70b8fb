//! The global allocator.

use core::alloc::Layout;
use core::ptr;

use talc::TalcCell;
use talc::base::Talc;
use talc::base::binning::{Binning, DefaultBinning};
use talc::cell::TalcSyncCell;
use talc::source::Source;

use crate::boot;

// SAFETY: A guest runs on one virtual CPU, and neither exception handlers nor the hypercalls allocate: no two calls
// overlap.
#[global_allocator]
static HEAP: TalcSyncCell<GuestHeap, DefaultBinning> =
    unsafe { TalcSyncCell::new(TalcCell::new(GuestHeap { given: false })) };

/// Gives the allocator the guest's heap when it is first asked for memory, so that a guest that never asks touches
/// none.
#[derive(Debug)]
struct GuestHeap {
    given: bool,
}

// SAFETY: `acquire` allocates nothing.
unsafe impl Source for GuestHeap {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        if talc.source.given {
            return Err(());
        }
        talc.source.given = true;
        let heap = boot::heap();
        // SAFETY: The heap is writable memory that nobody else has, and this is the only time it is given away.
        unsafe { talc.claim(ptr::with_exposed_provenance_mut(heap.start), heap.len()) }.map(drop).ok_or(())
    }
}
