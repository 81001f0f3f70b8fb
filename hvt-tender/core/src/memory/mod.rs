//! Guest memory as the tender sees it.
//!
//! The guest changes its memory whenever it likes, so the tender never holds a reference to a byte of it: it copies
//! in, checks the copy, and copies out. [`GuestMemory`] is where the bytes are, [`MemoryMap`] is what the guest may do
//! with them, and [`GuestSpace`] is both: the only place where a pointer that a guest handed over turns into bytes.

mod chunk;
#[cfg(any(test, feature = "fixtures"))]
pub mod fake;
mod map;
mod space;

pub use chunk::{Chunk, ChunkOf};
pub use hvt_abi::Permissions;
pub use map::{MemoryMap, Region};
pub use space::{GuestPtr, GuestSlice, GuestSpace, Violation};

use core::ptr::NonNull;

use hvt_abi::{Gpa, GuestRange};

/// Memory of a guest: `size` bytes from guest address 0 on, all of it backed.
///
/// Implemented over one mapping of an operating system, over frames of a kernel, or over a `Vec` in tests.
pub trait GuestMemory {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// The longest piece of host memory that backs `range` from its start on.
    ///
    /// At least one byte and at most `range.len()`; `None` when the range is empty or starts outside the memory.
    /// Where guest memory is one mapping, one chunk covers every range inside it.
    fn chunk(&self, range: GuestRange) -> Option<Chunk<'_>>;

    /// All of it, where it is one piece of host memory.
    fn whole(&self) -> Option<Chunk<'_>> {
        None
    }

    /// The first pages of `range` that may hold anything but zeros, as far as is cheaply known; `None` where there are
    /// none.
    fn populated(&self, range: GuestRange) -> Option<GuestRange> {
        (!range.is_empty()).then_some(range)
    }

    /// Copies guest memory at `at` into `into`.
    ///
    /// # Errors
    /// When a byte of it lies outside; then `into` holds what lies inside.
    fn read(&self, at: Gpa, into: &mut [u8]) -> Result<(), OutOfMemory> {
        let mut done = 0;
        each_chunk(self, at, into.len(), |chunk| {
            done += chunk.read(&mut into[done..]);
        })
    }

    /// Copies `from` into guest memory at `at`.
    ///
    /// # Errors
    /// When a byte of it would lie outside; then what lies inside has been written.
    fn write(&self, at: Gpa, from: &[u8]) -> Result<(), OutOfMemory> {
        let mut done = 0;
        each_chunk(self, at, from.len(), |chunk| {
            done += chunk.write(&from[done..]);
        })
    }
}

/// Guest memory that is one mapping of this process.
///
/// # Safety
/// All [`size`](GuestMemory::size) bytes at [`host_address`](HostMemory::host_address), which stays the same, are mapped,
/// readable and writable, belong to this object alone, and are reached through chunks only, for as long as it lives.
pub unsafe trait HostMemory: GuestMemory {
    /// Host address of guest address 0.
    fn host_address(&self) -> NonNull<u8>;
}

impl<M: GuestMemory + ?Sized> GuestMemory for &M {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn chunk(&self, range: GuestRange) -> Option<Chunk<'_>> {
        (**self).chunk(range)
    }

    fn whole(&self) -> Option<Chunk<'_>> {
        (**self).whole()
    }

    fn populated(&self, range: GuestRange) -> Option<GuestRange> {
        (**self).populated(range)
    }
}

fn each_chunk<M: GuestMemory + ?Sized>(
    memory: &M,
    at: Gpa,
    len: usize,
    mut each: impl FnMut(Chunk<'_>),
) -> Result<(), OutOfMemory> {
    let outside = OutOfMemory { at, len: len as u64, size: memory.size() };
    let mut left = GuestRange::new(at, len as u64).ok_or(outside)?;
    while !left.is_empty() {
        let chunk = memory.chunk(left).ok_or(outside)?;
        let start = left.start().checked_add(chunk.len() as u64).ok_or(outside)?;
        each(chunk);
        left = GuestRange::between(start, left.end()).ok_or(outside)?;
    }
    Ok(())
}

/// An access that leaves guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at guest address {at} leave the guest's {size:#x} bytes of memory")]
pub struct OutOfMemory {
    /// Where the access starts.
    pub at: Gpa,
    /// Its length in bytes.
    pub len: u64,
    /// Size of guest memory in bytes.
    pub size: u64,
}
