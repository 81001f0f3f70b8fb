//! Guest memory from the tender's side.
//!
//! The guest may change its memory at any time, so the tender never holds a reference to guest
//! memory: it copies in, checks the copy, and copies out. [`GuestMemory`] is the storage,
//! [`MemoryMap`] has the guest's permissions, and [`GuestSpace`] combines both. A guest pointer
//! becomes host memory only through [`GuestSpace`].

#![expect(unsafe_code, reason = "guest memory is raw memory, which the guest changes at any time")]

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

/// Memory of a guest: `size` bytes from guest address 0 on, all of them backed.
///
/// Implemented over a single mapping of an operating system, over page frames of a kernel, or over
/// a `Vec` in tests.
pub trait GuestMemory {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Returns the longest piece of host memory that backs the start of `range`.
    ///
    /// The length is at least one byte and at most `range.len()`. Returns `None` if the range is
    /// empty or starts outside the memory. If guest memory is a single mapping, one chunk covers
    /// every range inside it.
    fn chunk(&self, range: GuestRange) -> Option<Chunk<'_>>;

    /// Returns all guest memory, if it is one piece of host memory.
    fn whole(&self) -> Option<Chunk<'_>> {
        None
    }

    /// Returns the first pages of `range` that may contain anything but zeros, as far as this is
    /// cheap to find out, or `None` if there are none.
    fn populated(&self, range: GuestRange) -> Option<GuestRange> {
        (!range.is_empty()).then_some(range)
    }

    /// Copies guest memory at `at` to `into`.
    ///
    /// # Errors
    /// Returns [`OutOfMemory`] if a byte lies outside guest memory; `into` then holds the bytes
    /// before.
    fn read(&self, at: Gpa, into: &mut [u8]) -> Result<(), OutOfMemory> {
        let mut done = 0;
        each_chunk(self, at, into.len(), |chunk| {
            done += chunk.read(&mut into[done..]);
        })
    }

    /// Copies `from` to guest memory at `at`.
    ///
    /// # Errors
    /// Returns [`OutOfMemory`] if a byte lies outside guest memory; the bytes before have then been
    /// written.
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
/// All [`size`](GuestMemory::size) bytes at [`host_address`](HostMemory::host_address) must be
/// mapped, readable and writable for the life of this object. The address must not change. The
/// bytes must belong to this object alone and be accessed only through chunks.
pub unsafe trait HostMemory: GuestMemory {
    /// Returns the host address of guest address 0.
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

/// Access outside of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at guest address {at} exceed the guest's {size:#x} bytes of memory")]
pub struct OutOfMemory {
    /// First address of the access.
    pub at: Gpa,
    /// Length of the access in bytes.
    pub len: u64,
    /// Size of guest memory in bytes.
    pub size: u64,
}
