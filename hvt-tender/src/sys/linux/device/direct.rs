//! Block device that bypasses the host's page cache with `O_DIRECT`.
//!
//! Direct transfers go to the disk itself and must be aligned: the file offset, the length and the
//! address in memory. Offset and length are multiples of the guest's block size, so a block size
//! that is too small is refused. A misaligned buffer of the guest is copied through a bounce
//! buffer.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::device::block::{DEFAULT_BLOCK_SIZE, FileBlock, MAX_BLOCK_SIZE, OpenError, Options, Problem};
use crate::device::io::{read_all_at, write_all_at};
use crate::device::{Block, Descriptor, DeviceError};
use crate::memory::{Chunk, GuestSlice};

/// Size of the bounce buffer in pages.
const PAGES: usize = 16;

/// Page of the bounce buffer.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// [`FileBlock`] whose reads and writes bypass the host's page cache. When a write returns, its
/// data are on the disk or in the disk's cache; [`sync`](Block::sync) flushes that cache too.
///
/// ```no_run
/// use hvt_tender::Unikernel;
/// use hvt_tender::device::{BlockOptions, DirectBlock};
///
/// let disk = DirectBlock::open("disk.img", &BlockOptions { block_size: 4096, ..BlockOptions::default() })?;
/// Unikernel::load("app.hvt")?.block("storage", disk).run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DirectBlock {
    disk: FileBlock,
    /// Required alignment of a buffer's address, a power of two.
    alignment: usize,
    bounce: Vec<Page>,
}

impl DirectBlock {
    /// Opens the file or block device at `path`.
    ///
    /// # Errors
    /// Returns the errors of [`FileBlock::open`], and [`OpenError::Open`] if the file does not
    /// support direct I/O or requires a larger block size.
    pub fn open(path: impl Into<PathBuf>, options: &Options) -> Result<Self, OpenError> {
        let path = path.into();
        let disk = FileBlock::open_with(path.clone(), options, libc::O_DIRECT)?;
        let mut bounce = vec![Page([0; 4096]); PAGES];
        match alignment(&disk.file, &path, bounce.as_mut_bytes()) {
            Ok(Alignment { place, .. }) if place > u64::from(disk.block_size) => {
                Err(OpenError::Open { path, problem: Problem::DirectSize(place) })
            }
            Ok(Alignment { memory, .. }) => Ok(Self { disk, alignment: memory, bounce }),
            Err(problem) => Err(OpenError::Open { path, problem }),
        }
    }

    /// Returns whether the buffer is aligned for a direct transfer.
    fn fits(&self, slice: GuestSlice<'_>) -> bool {
        let aligned = |chunk: Chunk<'_>| chunk.as_ptr().addr().is_multiple_of(self.alignment);
        slice.whole().is_some_and(aligned)
    }

    /// Calls `each` with the bounce buffer, the next part of `slice` and its file offset, until the
    /// whole slice is transferred.
    fn in_turns(
        &mut self,
        mut slice: GuestSlice<'_>,
        mut offset: u64,
        each: impl Fn(&File, &mut [u8], GuestSlice<'_>, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        // The bounce buffer holds whole blocks: both sizes are powers of two.
        let bounce = self.bounce.as_mut_bytes();
        while !slice.is_empty() {
            let turn = slice.prefix(bounce.len() as u64);
            // At most the length of the bounce buffer.
            let len = turn.len() as usize;
            each(&self.disk.file, &mut bounce[..len], turn, offset)?;
            slice = slice.skip(len as u64);
            offset += len as u64;
        }
        Ok(())
    }
}

const _: () = assert!((PAGES * size_of::<Page>()) as u64 >= MAX_BLOCK_SIZE && PAGES.is_power_of_two());

impl Block for DirectBlock {
    fn capacity(&self) -> u64 {
        self.disk.capacity
    }

    fn block_size(&self) -> u16 {
        self.disk.block_size
    }

    fn read(&mut self, offset: u64, into: GuestSlice<'_>) -> Result<(), DeviceError> {
        let done = if self.fits(into) {
            read_all_at(self.disk.file.as_fd(), into, offset)
        } else {
            self.in_turns(into, offset, |file, buffer, part, offset| {
                file.read_exact_at(buffer, offset)?;
                part.write(buffer);
                Ok(())
            })
        };
        self.disk.has_read(offset, done)
    }

    fn write(&mut self, offset: u64, from: GuestSlice<'_>) -> Result<(), DeviceError> {
        let done = if !self.disk.begins_to_write() {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        } else if self.fits(from) {
            write_all_at(self.disk.file.as_fd(), from, offset)
        } else {
            self.in_turns(from, offset, |file, buffer, part, offset| {
                part.read(buffer);
                file.write_all_at(buffer, offset)
            })
        };
        self.disk.has_written(offset, done)
    }

    fn sync(&mut self) -> Result<(), DeviceError> {
        self.disk.sync()
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        self.disk.descriptors()
    }
}

/// Alignment of direct transfers in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Alignment {
    /// Alignment of the buffer's address.
    memory: usize,
    /// Alignment of the file offset and the length.
    place: u64,
}

/// Returns the alignment that this file, opened with `O_DIRECT`, requires. `buffer` is for test
/// reads.
fn alignment(file: &File, path: &Path, buffer: &mut [u8]) -> Result<Alignment, Problem> {
    if let Some(told) = told(file)? {
        return Ok(told);
    }
    if file.metadata()?.file_type().is_block_device() {
        let mut sector: libc::c_uint = 0;
        // SAFETY: BLKSSZGET writes one `int` through its argument.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET, &raw mut sector) };
        Errno::result(done).map_err(io::Error::from)?;
        return Ok(Alignment { memory: sector as usize, place: sector.into() });
    }
    log::debug!("{}: this kernel does not report the alignment of direct I/O", path.display());
    Ok(Alignment { memory: align_of::<Page>(), place: smallest_read(file, buffer)? })
}

/// Returns the alignment that the kernel reports: since Linux 6.1, for block devices and most file
/// systems.
fn told(file: &File) -> Result<Option<Alignment>, Problem> {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    let (path, flags, mask) = (c"", libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN);
    // The raw system call, because glibc before 2.28 lacks the function.
    // SAFETY: the path is a string, and the kernel writes one structure.
    let done =
        unsafe { libc::syscall(libc::SYS_statx, file.as_raw_fd(), path.as_ptr(), flags, mask, found.as_mut_ptr()) };
    match Errno::result(done) {
        Ok(_) => {}
        // Linux before 4.11 has no statx, and filters of older container runtimes refuse it.
        Err(Errno::ENOSYS | Errno::EPERM) => return Ok(None),
        Err(error) => return Err(io::Error::from(error).into()),
    }
    // SAFETY: every field is a number, for which any bytes are valid.
    let found = unsafe { found.assume_init() };
    if found.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Ok(None);
    }
    match (found.stx_dio_mem_align, found.stx_dio_offset_align) {
        // The file system accepts the flag, but goes through the page cache.
        (_, 0) => Err(Problem::NotDirect),
        (memory, place) => Ok(Some(Alignment { memory: memory.max(1) as usize, place: place.into() })),
    }
}

/// Returns the length of the shortest direct read that the file supports, found by trying. A file
/// without blocks supports none.
fn smallest_read(file: &File, buffer: &mut [u8]) -> Result<u64, Problem> {
    let mut len = usize::from(DEFAULT_BLOCK_SIZE);
    while len as u64 <= MAX_BLOCK_SIZE {
        match file.read_at(&mut buffer[..len], 0) {
            Ok(_) => return Ok(len as u64),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => len *= 2,
            Err(error) => return Err(error.into()),
        }
    }
    Err(Problem::NotDirect)
}

#[cfg(test)]
mod tests;
