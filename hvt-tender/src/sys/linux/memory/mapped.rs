//! Guest memory as one mapping of the operating system.

#![expect(unsafe_code, reason = "memory that the guest changes at any time")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use hvt_abi::{Gpa, GuestRange, PAGE_SIZE};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use vm_memory::FileOffset;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder, MmapRegionError};

use crate::sys::host_limit;

use super::Usage;
use crate::memory::{Chunk, GuestMemory, HostMemory, MapError, MemoryMap, Permissions, Region};

/// Guest memory in one mapping of this process, zero at first and populated when touched. A clone
/// is a handle to the same memory.
///
/// Code of rust-vmm reads and writes guest memory through the traits of [`vm_memory`]. A
/// `MappedMemory` is a [`vm_memory::GuestMemory`], and the [`vm_memory::GuestMemoryRegion`] at
/// guest address 0 of a [`vm_memory::GuestRegionCollection`]:
///
/// ```
/// use hvt_tender::memory::MappedMemory;
/// use vm_memory::{Bytes, GuestAddress};
///
/// let memory = MappedMemory::anonymous(0x20_0000)?;
/// memory.write_obj(0x1234_5678_u32, GuestAddress(0x10_0000))?;
/// assert_eq!(memory.read_obj::<u32>(GuestAddress(0x10_0000))?, 0x1234_5678);
/// assert!(memory.write_slice(&[1, 2], GuestAddress(0x1f_ffff)).is_err(), "crosses the end");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The traits of `vm_memory` check the permissions of this process: after
/// [`protect`](Self::protect), a write to read-only pages fails, and a read succeeds.
/// [`GuestSpace`](crate::memory::GuestSpace) checks the permissions of the guest.
#[derive(Clone, Debug)]
pub struct MappedMemory {
    mapping: Arc<Mapping>,
    /// Address and size of the mapping, cached here because every hypercall needs them.
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to no thread. Its bytes are only reached through chunks and volatile
// slices. They are copied with volatile accesses or passed to system calls, because the guest can
// change them at any time.
unsafe impl Send for MappedMemory {}
// SAFETY: as above.
unsafe impl Sync for MappedMemory {}

#[derive(Debug)]
struct Mapping {
    region: MmapRegion,
    /// Memory map that [`MappedMemory::protect`] has applied.
    protected: OnceLock<MemoryMap>,
}

impl MappedMemory {
    /// Maps `size` bytes of memory private to this process.
    ///
    /// # Errors
    /// Returns [`MapError`] if `mmap` fails.
    pub fn anonymous(size: u64) -> Result<Self, MapError> {
        let flags = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        Self::build(size, flags, None)
    }

    /// Maps the first `size` bytes of `file` as shared memory.
    ///
    /// # Errors
    /// Returns [`MapError`] if `mmap` fails or the file is shorter.
    pub fn shared(size: u64, file: OwnedFd) -> Result<Self, MapError> {
        let file = FileOffset::new(file.into(), 0);
        Self::build(size, libc::MAP_SHARED | libc::MAP_NORESERVE, Some(file))
    }

    fn build(size: u64, flags: libc::c_int, file: Option<FileOffset>) -> Result<Self, MapError> {
        let error = |source| MapError { size, source };
        let bytes = usize::try_from(size).map_err(|_| error(io::ErrorKind::InvalidInput.into()))?;
        let map = || {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let mut builder = MmapRegionBuilder::new(bytes).with_mmap_prot(prot).with_mmap_flags(flags);
            if let Some(file) = file.clone() {
                builder = builder.with_file_offset(file);
            }
            builder.build()
        };
        let region = map().or_else(|failed| if host_limit::raise_memory() { map() } else { Err(failed) });
        let region = region.map_err(|cause| match cause {
            MmapRegionError::Mmap(source) => error(source),
            other => error(io::Error::other(other)),
        })?;
        // A mapping is never at address 0.
        let start = NonNull::new(region.as_ptr()).ok_or_else(|| error(io::ErrorKind::AddrNotAvailable.into()))?;
        let len = region.size();
        Ok(Self { mapping: Arc::new(Mapping { region, protected: OnceLock::new() }), start, len })
    }

    /// Returns the file of [shared](Self::shared) memory.
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.region().file_offset().map(|offset| offset.file().as_fd())
    }

    /// Returns a handle that measures how much of the memory is in use.
    ///
    /// # Errors
    /// Returns an [`io::Error`] if the host has no descriptor left.
    pub fn usage(&self) -> io::Result<Usage> {
        match self.file() {
            Some(file) => Ok(Usage::of_file(file.try_clone_to_owned()?)),
            None => Ok(Usage::of_mapping(self.start.as_ptr() as usize, self.len)),
        }
    }

    /// Returns the host address of guest address 0, for kernel interfaces that take the address of
    /// guest memory.
    #[must_use]
    pub fn host_address(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn region(&self) -> &MmapRegion {
        &self.mapping.region
    }

    /// Makes pages of this process's mapping read-only if `memory_map` forbids the guest to write
    /// to them, because KVM applies the mapping's permissions to the guest's accesses too. Must be
    /// called after everything is loaded: a [`vm_memory::VolatileSlice`] obtained earlier does not
    /// reflect that its pages are read-only.
    ///
    /// # Errors
    /// Returns an [`io::Error`] if `mprotect` fails, or if another memory map has been applied
    /// before.
    pub fn protect(&self, memory_map: &MemoryMap) -> io::Result<()> {
        // Set first, so that a concurrent write through `vm_memory` fails and does not fault.
        if self.mapping.protected.get_or_init(|| memory_map.clone()) != memory_map {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "guest memory has the protection of another memory map",
            ));
        }
        self.make_read_only(memory_map)
    }

    /// Writes for a debugger, also to pages that [`protect`](Self::protect) made read-only. These
    /// pages are read-only again afterwards.
    ///
    /// # Errors
    /// Returns an [`io::Error`] if a byte is outside of memory or `mprotect` fails.
    pub fn poke(&self, at: Gpa, bytes: &[u8]) -> io::Result<()> {
        let write = || self.write(at, bytes).map_err(io::Error::other);
        let Some(memory_map) = self.mapping.protected.get() else { return write() };
        let range =
            GuestRange::new(at, bytes.len() as u64).filter(|range| !memory_map.allows(*range, Permissions::WRITE));
        let Some(range) = range else { return write() };
        let end = range.end().checked_align_up(PAGE_SIZE).unwrap_or(range.end());
        let Some(pages) = GuestRange::between(at.align_down(PAGE_SIZE), end) else { return write() };
        self.set_protection(pages, libc::PROT_READ | libc::PROT_WRITE)?;
        let written = write();
        self.make_read_only(memory_map).and(written)
    }

    fn make_read_only(&self, memory_map: &MemoryMap) -> io::Result<()> {
        read_only(memory_map).try_for_each(|region| self.set_protection(region.range, libc::PROT_READ))
    }

    /// Calls `mprotect` for the whole pages `pages`, as far as they are inside of memory.
    fn set_protection(&self, pages: GuestRange, protection: libc::c_int) -> io::Result<()> {
        let Some(chunk) = self.chunk(pages) else { return Ok(()) };
        // SAFETY: the pages are inside of this mapping, and stay readable. `GuestSpace` and the
        // traits of `vm_memory` refuse to write to pages that `protect` made read-only.
        let failed = unsafe { libc::mprotect(chunk.as_ptr().cast(), chunk.len(), protection) } != 0;
        if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Returns the number of bytes from `at` on, at most `count`, that this process may write, or
    /// read if `write` is false.
    pub(super) fn accessible(&self, at: u64, count: usize, write: bool) -> usize {
        let inside = self.len.saturating_sub(usize::try_from(at).unwrap_or(usize::MAX));
        let count = inside.min(count);
        let Some(memory_map) = self.mapping.protected.get().filter(|_| write) else { return count };
        let barrier = read_only(memory_map).find(|region| region.range.end().0 > at);
        let before = barrier.map(|region| region.range.start().0.saturating_sub(at));
        before.and_then(|before| usize::try_from(before).ok()).map_or(count, |before| before.min(count))
    }
}

/// Returns the regions of `memory_map` that [`MappedMemory::protect`] makes read-only.
fn read_only(memory_map: &MemoryMap) -> impl Iterator<Item = &Region> {
    memory_map.regions().iter().filter(|region| !region.access.contains(Permissions::WRITE))
}

impl GuestMemory for MappedMemory {
    fn size(&self) -> u64 {
        self.len as u64
    }

    fn chunk(&self, range: GuestRange) -> Option<Chunk<'_>> {
        self.whole()?.backing(range)
    }

    fn whole(&self) -> Option<Chunk<'_>> {
        // SAFETY: the bytes are the mapping, which lives as long as `self`. `protect` makes pages
        // read-only only where `GuestSpace` refuses to write. Chunks and volatile slices never
        // become references.
        Some(unsafe { Chunk::new(self.start, self.len) })
    }

    /// Reading a hole of a file would fill the hole, so holes are skipped. Reading anonymous memory
    /// costs nothing.
    fn populated(&self, range: GuestRange) -> Option<GuestRange> {
        let Some(file) = self.file().filter(|_| !range.is_empty()) else {
            return (!range.is_empty()).then_some(range);
        };
        let seek = |from: Gpa, whence| {
            let found = lseek(file, i64::try_from(from.0).map_err(|_| Errno::EINVAL)?, whence)?;
            Ok(Gpa(found.unsigned_abs()).min(range.end()))
        };
        let data = |from| {
            let start = seek(from, Whence::SeekData)?;
            Ok(GuestRange::between(start, seek(start, Whence::SeekHole)?))
        };
        match data(range.start()) {
            Ok(part) => part.filter(|part| !part.is_empty()),
            // Only a hole follows up to the end of the file.
            Err(Errno::ENXIO) => None,
            // The file system does not support holes.
            Err(_) => Some(range),
        }
    }
}

// SAFETY: the mapping ends with the last handle, and is only reached through chunks and volatile
// slices. Only backends that need read-only pages call `protect`.
unsafe impl HostMemory for MappedMemory {
    fn host_address(&self) -> NonNull<u8> {
        self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Region;

    #[test]
    fn a_debugger_writes_what_is_read_only_and_leaves_it_so() {
        let memory = MappedMemory::anonymous(0x20_0000).unwrap();
        let region = |start, end, access| Region { range: GuestRange::between(Gpa(start), Gpa(end)).unwrap(), access };
        let memory_map = MemoryMap::new([
            region(0x10_0000, 0x10_1000, Permissions::READ | Permissions::EXECUTE),
            region(0x10_1000, 0x10_2000, Permissions::READ | Permissions::WRITE),
        ]);
        let memory_map = memory_map.unwrap();
        memory.protect(&memory_map).unwrap();
        memory.poke(Gpa(0x10_0ffe), &[1, 2, 3]).unwrap();
        let mut back = [0; 4];
        memory.read(Gpa(0x10_0ffe), &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 0]);
        // A system call that writes to a read-only page returns an error and does not kill this
        // process.
        let chunk = memory.chunk(GuestRange::new(Gpa(0x10_0000), 8).unwrap()).unwrap();
        let file = tempfile::tempfile().unwrap();
        nix::unistd::write(&file, &[7; 8]).unwrap();
        // SAFETY: the kernel writes to a live mapping, or fails.
        let read = unsafe { libc::pread(std::os::fd::AsRawFd::as_raw_fd(&file), chunk.as_ptr().cast(), 8, 0) };
        assert_eq!((read, Errno::last()), (-1, Errno::EFAULT));
    }

    #[test]
    fn reads_back_what_was_written_and_stops_at_the_end() {
        let memory = MappedMemory::anonymous(0x20_0000).unwrap();
        memory.write(Gpa(0x1f_fffe), &[1, 2]).unwrap();
        let mut back = [0; 2];
        memory.read(Gpa(0x1f_fffe), &mut back).unwrap();
        assert_eq!(back, [1, 2]);
        assert!(memory.write(Gpa(0x1f_ffff), &[1, 2]).is_err());
        assert!(memory.read(Gpa(u64::MAX), &mut back).is_err());
        assert!(memory.write(Gpa(0x20_0000), &[]).is_ok(), "an empty copy touches nothing");
    }
}
