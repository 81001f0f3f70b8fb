//! Memory: mappings, and the heap.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use core::ptr::NonNull;

use hvt_abi::GuestRange;
use hvt_core::{
    kernel::Errno,
    memory::{Chunk, GuestMemory},
};
use spin::Mutex;
use talc::{TalcLock, source::Manual};

use crate::sys::{self, Result, flags};

/// Bytes in a page.
pub(crate) const PAGE_SIZE: usize = 4096;

/// Size of the heap in bytes. The heap holds the disks of guests and all other data except guest
/// memory.
const HEAP_SIZE: usize = 32 << 20;

#[global_allocator]
static HEAP: TalcLock<Mutex<()>, Manual> = TalcLock::new(Manual);

/// Gives the heap its memory, and touches every page so that later checks do not change the memory
/// usage.
///
/// # Errors
/// Returns an error if the kernel has too little memory.
pub(crate) fn init_heap() -> Result<()> {
    let memory = core::mem::ManuallyDrop::new(Mapping::anonymous(HEAP_SIZE)?);
    for page in (0..HEAP_SIZE).step_by(PAGE_SIZE) {
        // SAFETY: the address is inside the mapping, and no reference to the mapping exists yet.
        unsafe { memory.start().add(page).write_volatile(0) };
    }
    // SAFETY: the mapping belongs to the heap from now on.
    let claimed = unsafe { HEAP.lock().claim(memory.start().as_ptr(), HEAP_SIZE) };
    claimed.map(drop).ok_or(Errno(12))
}

/// Returns the number of bytes in use on the heap.
pub(crate) fn heap_in_use() -> usize {
    HEAP.lock().counters().allocated_bytes
}

/// Mapping, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: a mapping is valid in all threads of the process.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps new private memory, zeroed and populated on access.
    pub(crate) fn anonymous(size: usize) -> Result<Self> {
        Self::new(usize::MAX, 0, size, flags::PROT_READ | flags::PROT_WRITE | flags::MAP_PRIVATE)
    }

    /// Maps `size` bytes of `fd` from `offset` on.
    pub(crate) fn new(fd: usize, offset: usize, size: usize, flags: usize) -> Result<Self> {
        let address = sys::fmap(fd, offset, size, flags)?;
        let start = NonNull::new(core::ptr::with_exposed_provenance_mut(address)).ok_or(Errno(14))?;
        Ok(Self { start, size })
    }

    /// Returns the address of the first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the owner has been dropped, and every reference with it. If unmapping fails, the
        // memory is leaked.
        let _ = unsafe { sys::funmap(self.start.as_ptr().expose_provenance(), self.size) };
    }
}

/// Memory of a guest: a mapping that is accessed only through chunks.
pub(crate) struct GuestRam(Mapping);

impl GuestRam {
    /// Maps `size` bytes of zeros.
    pub(crate) fn new(size: usize) -> Result<Self> {
        Mapping::anonymous(size).map(Self)
    }

    /// Returns the address of guest address 0.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.0.start
    }
}

impl GuestMemory for GuestRam {
    fn size(&self) -> u64 {
        self.0.size as u64
    }

    #[inline]
    fn chunk(&self, range: GuestRange) -> Option<Chunk<'_>> {
        self.whole()?.backing(range)
    }

    #[inline]
    fn whole(&self) -> Option<Chunk<'_>> {
        // SAFETY: the bytes are the mapping, which lives as long as `self`; no reference to it
        // exists.
        Some(unsafe { Chunk::new(self.0.start, self.0.size) })
    }
}
