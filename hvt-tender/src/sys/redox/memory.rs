//! Guest memory as one mapping on Redox.

#![expect(unsafe_code, reason = "memory that the guest changes at any time")]

use std::convert::Infallible;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use hvt_abi::GuestRange;

use crate::memory::{Chunk, GuestMemory, HostMemory, MapError};
use crate::sandbox::Calls;

/// Guest memory in one mapping of this process alone, zero at first and populated as it is touched: the kind that the
/// kernel's hypervisor takes for a guest. A clone is a handle to the same memory.
#[derive(Clone, Debug)]
pub struct MappedMemory(Arc<Mapping>);

#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to no thread. Its bytes are reached through chunks alone: copied with volatile accesses, or
// passed to system calls, because the guest changes them at any time anyway.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl MappedMemory {
    /// `size` bytes of memory that no other process sees.
    ///
    /// # Errors
    /// Returns [`MapError`] if `mmap` fails.
    pub fn anonymous(size: u64) -> Result<Self, MapError> {
        let error = |source| MapError { size, source };
        let len = usize::try_from(size).map_err(|_| error(io::ErrorKind::InvalidInput.into()))?;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the kernel chooses the address, so no existing mapping is affected.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(error(io::Error::last_os_error()));
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| error(io::ErrorKind::AddrNotAvailable.into()))?;
        Ok(Self(Arc::new(Mapping { start, len })))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the last handle is gone, and with it all that refers to the mapping. What cannot be unmapped stays.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

impl GuestMemory for MappedMemory {
    fn size(&self) -> u64 {
        self.0.len as u64
    }

    fn chunk(&self, range: GuestRange) -> Option<Chunk<'_>> {
        self.whole()?.backing(range)
    }

    fn whole(&self) -> Option<Chunk<'_>> {
        // SAFETY: the bytes are the mapping, which lives as long as `self` and is only reached
        // through chunks.
        Some(unsafe { Chunk::new(self.0.start, self.0.len) })
    }
}

// SAFETY: the mapping is made by `anonymous`, ends with the last handle, and is reached through `chunk` alone.
unsafe impl HostMemory for MappedMemory {
    fn host_address(&self) -> NonNull<u8> {
        self.0.start
    }
}

/// Source of the amount of guest memory in use: Redox has none.
#[derive(Debug)]
pub struct Usage(Infallible);

impl Usage {
    pub(crate) fn system_calls(&self, _: &mut Calls) {
        match self.0 {}
    }

    /// Never called: no value exists.
    ///
    /// # Errors
    /// None.
    pub fn bytes(&self) -> io::Result<u64> {
        match self.0 {}
    }
}
