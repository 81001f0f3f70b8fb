//! The global allocator.

#![expect(unsafe_code, reason = "hypercalls, and memory that the tender writes")]

use core::alloc::Layout;
use core::ptr;

use talc::TalcCell;
use talc::base::Talc;
use talc::base::binning::{Binning, DefaultBinning};
use talc::cell::TalcSyncCell;
use talc::source::Source;

use crate::boot;

// SAFETY: A guest runs on one virtual CPU, and neither the exception handlers nor the hypercalls
// allocate memory. Calls of the allocator therefore never overlap.
#[global_allocator]
static HEAP: TalcSyncCell<GuestHeap, DefaultBinning> =
    unsafe { TalcSyncCell::new(TalcCell::new(GuestHeap { given: false })) };

/// Passes the guest's heap to the allocator on the first allocation. A guest that never allocates
/// thus touches no heap memory.
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
        // SAFETY: The heap is writable memory without other users, and it is passed to the
        // allocator only once.
        unsafe { talc.claim(ptr::with_exposed_provenance_mut(heap.start), heap.len()) }.map(drop).ok_or(())
    }
}
