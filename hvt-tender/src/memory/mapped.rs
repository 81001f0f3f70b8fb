//! Guest memory as one mapping of an operating system.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use hvt_abi::{Gpa, GuestRange, PAGE_SIZE};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use vm_memory::FileOffset;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder, MmapRegionError};

use crate::host_limit;

use super::{Access, Chunk, GuestMemory, HostMemory, Layout, MapError, Usage};

/// Guest memory in one mapping of this process, zero at first and populated as it is touched. A clone is the same
/// memory.
#[derive(Clone, Debug)]
pub struct MappedMemory {
    region: Arc<MmapRegion>,
    /// Where the mapping begins and how long it is, as `region` says: every hypercall needs them.
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to no thread, and its bytes are reached through chunks alone: copied with volatile accesses
// or handed to system calls, because the guest changes them at any time anyway.
unsafe impl Send for MappedMemory {}
// SAFETY: as above.
unsafe impl Sync for MappedMemory {}

impl MappedMemory {
    /// `size` bytes of memory that no other process sees.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn anonymous(size: u64) -> Result<Self, MapError> {
        let flags = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        Self::build(size, flags, None)
    }

    /// `size` bytes of memory that are the contents of `file`, from its start on.
    ///
    /// # Errors
    /// When the host refuses, or the file is shorter.
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
        // A mapping never lies at address 0.
        let start = NonNull::new(region.as_ptr()).ok_or_else(|| error(io::ErrorKind::AddrNotAvailable.into()))?;
        Ok(Self { start, len: region.size(), region: Arc::new(region) })
    }

    /// The file behind it, where it is [shared](Self::shared).
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.region.file_offset().map(|offset| offset.file().as_fd())
    }

    /// What tells how much of it is in use.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn usage(&self) -> io::Result<Usage> {
        match self.file() {
            Some(file) => Ok(Usage::of_file(file.try_clone_to_owned()?)),
            None => Ok(Usage::of_mapping(self.region.as_ptr() as usize, self.region.size())),
        }
    }

    /// Host address of guest address 0, for the kernel interfaces that are told where guest memory lies.
    #[must_use]
    pub fn host_address(&self) -> NonNull<u8> {
        self.start
    }

    /// Takes away the host's own right to write what `layout` forbids the guest to write, and to touch what is not
    /// mapped for it: KVM enforces it on the guest's accesses too. To be called once everything is loaded.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn protect(&self, layout: &Layout) -> io::Result<()> {
        for region in layout.regions().iter().filter(|region| !region.access.contains(Access::WRITE)) {
            let Some(chunk) = self.chunk(region.range) else { continue };
            // SAFETY: the range is page-aligned by `Layout` and lies inside this mapping. Nothing in this process
            // writes there any more except through `GuestSpace`, which refuses what the layout forbids.
            let failed = unsafe { libc::mprotect(chunk.as_ptr().cast(), chunk.len(), libc::PROT_READ) } != 0;
            if failed {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

impl MappedMemory {
    /// Writes what [`protect`](Self::protect) may have made read-only for this process, for a debugger; it is so again
    /// afterwards.
    ///
    /// # Errors
    /// When a part of it lies outside, or the host refuses.
    pub fn poke(&self, layout: &Layout, at: Gpa, bytes: &[u8]) -> io::Result<()> {
        let write = || self.write(at, bytes).map_err(io::Error::other);
        let range = GuestRange::new(at, bytes.len() as u64).filter(|range| !layout.allows(*range, Access::WRITE));
        let Some(range) = range else { return write() };
        let end = range.end().checked_align_up(PAGE_SIZE).unwrap_or(range.end());
        let pages = GuestRange::between(at.align_down(PAGE_SIZE), end).and_then(|pages| self.chunk(pages));
        let Some(pages) = pages else { return write() };
        // SAFETY: whole pages inside this mapping, which is the tender's and KVM's alone; more may be done with them from
        // here on, and KVM's guest does not run.
        let failed =
            unsafe { libc::mprotect(pages.as_ptr().cast(), pages.len(), libc::PROT_READ | libc::PROT_WRITE) } != 0;
        if failed {
            return Err(io::Error::last_os_error());
        }
        let written = write();
        self.protect(layout).and(written)
    }
}

impl GuestMemory for MappedMemory {
    fn size(&self) -> u64 {
        self.len as u64
    }

    fn chunk(&self, range: GuestRange) -> Option<Chunk<'_>> {
        self.whole()?.backing(range)
    }

    fn whole(&self) -> Option<Chunk<'_>> {
        // SAFETY: the bytes are the mapping, which lives as long as `self`; `protect` takes the right to write away only
        // where `GuestSpace` refuses to write. The mapping is reached through chunks alone.
        Some(unsafe { Chunk::new(self.start, self.len) })
    }

    /// To look at what lies in a file's hole would fill the hole. Reading what is anonymous costs nothing.
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
            // There is nothing but a hole up to the end of the file.
            Err(Errno::ENXIO) => None,
            // A file that knows no holes.
            Err(_) => Some(range),
        }
    }
}

// SAFETY: the mapping ends with this object, and is reached through `chunk` alone; `protect` is called by those alone who
// want its pages read-only.
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
        let layout = Layout::new([
            region(0x10_0000, 0x10_1000, Access::READ | Access::EXECUTE),
            region(0x10_1000, 0x10_2000, Access::READ | Access::WRITE),
        ]);
        let layout = layout.unwrap();
        memory.protect(&layout).unwrap();
        memory.poke(&layout, Gpa(0x10_0ffe), &[1, 2, 3]).unwrap();
        let mut back = [0; 4];
        memory.read(Gpa(0x10_0ffe), &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 0]);
        // A system call writes: where it may not, it says so instead of ending this process.
        let chunk = memory.chunk(GuestRange::new(Gpa(0x10_0000), 8).unwrap()).unwrap();
        let file = tempfile::tempfile().unwrap();
        nix::unistd::write(&file, &[7; 8]).unwrap();
        // SAFETY: the kernel writes to a mapping that lives, or refuses to.
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
