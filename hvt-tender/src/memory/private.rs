//! Guest memory as one mapping of Redox.

use std::io;
use std::ptr::NonNull;

use hvt_abi::GuestRange;

use super::{Chunk, GuestMemory, HostMemory, MapError};

/// Guest memory in one mapping of this process alone, zero at first and populated as it is touched: what the kernel's
/// hypervisor takes for a guest.
#[derive(Debug)]
pub struct PrivateMemory {
    start: NonNull<u8>,
    len: usize,
}

impl PrivateMemory {
    /// `size` bytes.
    ///
    /// # Errors
    /// Returns [`MapError`] if `mmap` fails.
    pub fn new(size: u64) -> Result<Self, MapError> {
        let error = |source| MapError { size, source };
        let len = usize::try_from(size).map_err(|_| error(io::ErrorKind::InvalidInput.into()))?;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the address is the kernel's choice, so that nothing that is mapped is touched.
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
        // SAFETY: its owner is gone, and with it all that refers to it. What cannot be unmapped stays.
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
        // SAFETY: the bytes are the mapping, which lives as long as `self` and is reached through chunks alone.
        Some(unsafe { Chunk::new(self.start, self.len) })
    }
}

// SAFETY: the mapping is made by `new`, ends with this object, and is reached through `chunk` alone.
unsafe impl HostMemory for PrivateMemory {
    fn host_address(&self) -> NonNull<u8> {
        self.start
    }
}
