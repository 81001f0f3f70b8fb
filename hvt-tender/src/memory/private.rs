//! Guest memory as one mapping on Redox.

use std::io;
use std::ptr::NonNull;

use hvt_abi::GuestRange;

use super::{Chunk, GuestMemory, HostMemory, MapError};

/// Guest memory in one private mapping of this process, zero at first and populated when touched,
/// as the hypervisor of the Redox kernel requires.
#[derive(Debug)]
pub struct PrivateMemory {
    start: NonNull<u8>,
    len: usize,
}

impl PrivateMemory {
    /// Maps `size` bytes.
    ///
    /// # Errors
    /// Returns [`MapError`] if `mmap` fails.
    pub fn new(size: u64) -> Result<Self, MapError> {
        let error = |source| MapError { size, source };
        let len = usize::try_from(size).map_err(|_| error(io::ErrorKind::InvalidInput.into()))?;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the kernel chooses the address, so no existing mapping is affected.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(error(io::Error::last_os_error()));
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| error(io::ErrorKind::AddrNotAvailable.into()))?;
        Ok(Self { start, len })
    }
}

impl Drop for PrivateMemory {
    fn drop(&mut self) {
        // SAFETY: the owner is being dropped, so no reference to the mapping is left. A failure
        // leaves the mapping in place.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

impl GuestMemory for PrivateMemory {
    fn size(&self) -> u64 {
        self.len as u64
    }

    fn chunk(&self, range: GuestRange) -> Option<Chunk<'_>> {
        self.whole()?.backing(range)
    }

    fn whole(&self) -> Option<Chunk<'_>> {
        // SAFETY: the bytes are the mapping, which lives as long as `self` and is only reached
        // through chunks.
        Some(unsafe { Chunk::new(self.start, self.len) })
    }
}

// SAFETY: `new` creates the mapping, `drop` ends it, and it is only reached through `chunk`.
unsafe impl HostMemory for PrivateMemory {
    fn host_address(&self) -> NonNull<u8> {
        self.start
    }
}
