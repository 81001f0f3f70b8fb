//! Memory of the kernel: frames, and a heap made of some of them.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use arrayvec::ArrayVec;
use hvt_bare::frames::{Chunk, FRAME_SIZE, FrameAllocator};
use hvt_boot::{Boot, PhysicalRange};
use spin::Mutex;
use talc::{TalcLock, source::Manual};

use crate::start;

/// All frames that [`init`] found; `None` before `init`.
pub(crate) static FRAMES: Mutex<Option<FrameAllocator<'static>>> = Mutex::new(None);

/// log2 of the number of frames in the heap: 32 MiB.
const HEAP_ORDER: u32 = 13;

#[global_allocator]
static HEAP: TalcLock<Mutex<()>, Manual> = TalcLock::new(Manual);

/// Memory usage of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Frames that are free.
    pub(crate) free_frames: usize,
    /// Bytes of the heap in use.
    pub(crate) heap_bytes: usize,
}

impl Usage {
    /// Returns the current usage.
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
/// Panics if the machine has too little memory, or if called twice.
///
/// # Safety
/// Must be called on the boot CPU, before any other CPU runs. `boot` must describe the memory
/// correctly: only the ranges that it names and the kernel itself are in use.
pub(crate) unsafe fn init(boot: &Boot<'_>) {
    let mut free: ArrayVec<_, 64> = boot.free_memory(kernel()).into_iter().collect();
    let end = free.iter().map(|range| range.end).max().unwrap_or(0);
    // SAFETY: guaranteed by the caller.
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
    // SAFETY: the memory is free as guaranteed by the caller, is excluded from the ranges handed
    // out below, is mapped at its address, page-aligned, and initialized before the slice is made.
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
    // SAFETY: these frames belong to the heap from now on; they are mapped at their address.
    let claimed = unsafe { HEAP.lock().claim(heap, (FRAME_SIZE as usize) << HEAP_ORDER) };
    assert!(claimed.is_some(), "the heap is too small");
    assert!(FRAMES.lock().replace(frames).is_none(), "memory is set up once");
}

/// Returns the physical range of the kernel.
fn kernel() -> PhysicalRange {
    unsafe extern "C" {
        // Symbols defined by the linker script.
        static kernel_start: u8;
        static kernel_end: u8;
    }
    PhysicalRange { start: (&raw const kernel_start).addr() as u64, end: (&raw const kernel_end).addr() as u64 }
}
