//! The kernel's memory: frames, and a heap made of some of them.

use arrayvec::ArrayVec;
use hvt_bare::frames::{Chunk, FRAME_SIZE, FrameAllocator};
use hvt_boot::{Boot, PhysicalRange};
use spin::Mutex;
use talc::{TalcLock, source::Manual};

use crate::start;

/// Every frame of the machine that [`init`] found. Empty before.
pub(crate) static FRAMES: Mutex<Option<FrameAllocator<'static>>> = Mutex::new(None);

/// log2 of the number of frames that the heap has: 32 MiB.
const HEAP_ORDER: u32 = 13;

#[global_allocator]
static HEAP: TalcLock<Mutex<()>, Manual> = TalcLock::new(Manual);

/// Memory that can be had, and what is taken of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Frames that are free.
    pub(crate) free_frames: usize,
    /// Bytes of the heap in use.
    pub(crate) heap_bytes: usize,
}

impl Usage {
    /// As of now.
    pub(crate) fn now() -> Self {
        Self {
            free_frames: FRAMES.lock().as_ref().map_or(0, FrameAllocator::free_frames),
            heap_bytes: HEAP.lock().counters().allocated_bytes,
        }
    }
}

/// Sets up frames and heap.
///
/// # Panics
/// When the machine has not enough memory for that, or when called twice.
///
/// # Safety
/// Called on the boot CPU, before any other runs. `boot` tells the truth about memory, and nothing but what it names and the kernel itself is in use.
pub(crate) unsafe fn init(boot: &Boot<'_>) {
    let mut free: ArrayVec<_, 64> = boot.free_memory(kernel()).into_iter().collect();
    let end = free.iter().map(|range| range.end).max().unwrap_or(0);
    // SAFETY: the caller's promise.
    let mapped = unsafe { start::map_up_to(end) };
    for range in &mut free {
        range.end = range.end.min(mapped).max(range.start);
    }
    let count = FrameAllocator::chunks_for(&free);
    let bytes = ((count * size_of::<Chunk>()) as u64).next_multiple_of(FRAME_SIZE);
    let room = free.iter_mut().find(|range| range.len() >= bytes + FRAME_SIZE).expect("memory for the frame allocator");
    let table = room.start.next_multiple_of(FRAME_SIZE);
    room.start = table + bytes;
    let table = core::ptr::with_exposed_provenance_mut::<Chunk>(table as usize);
    // SAFETY: free memory by the caller's promise, taken out of what is handed out below; mapped at its address;
    // aligned to a page; initialized before the slice is made.
    let chunks = unsafe {
        for index in 0..count {
            table.add(index).write(Chunk::USED);
        }
        core::slice::from_raw_parts_mut(table, count)
    };
    let mut frames = FrameAllocator::new(chunks);
    for range in free {
        frames.add(range);
    }
    let heap = frames.allocate(HEAP_ORDER).expect("memory for the heap");
    let heap = core::ptr::with_exposed_provenance_mut(heap as usize);
    // SAFETY: these frames are the heap's from now on; they are mapped at their address.
    let claimed = unsafe { HEAP.lock().claim(heap, (FRAME_SIZE as usize) << HEAP_ORDER) };
    assert!(claimed.is_some(), "the heap is too small");
    assert!(FRAMES.lock().replace(frames).is_none(), "memory is set up once");
}

/// Where the kernel lies.
fn kernel() -> PhysicalRange {
    unsafe extern "C" {
        // Symbols of the linker script.
        static kernel_start: u8;
        static kernel_end: u8;
    }
    PhysicalRange { start: (&raw const kernel_start).addr() as u64, end: (&raw const kernel_end).addr() as u64 }
}
