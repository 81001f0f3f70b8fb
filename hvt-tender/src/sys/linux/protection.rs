//! Write protection on Linux that the permissions of a file do not show.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::device::BlockProblem as Problem;

/// `BLKROGET` (`linux/fs.h`): writes 1 to an `int` if the block device is read-only, 0 otherwise.
const BLKROGET: libc::Ioctl = 0x125e;

/// Returns an error if a disk that was opened for writing is write-protected. Linux opens a
/// read-only block device and a sealed memory file for writing, and then fails each write.
pub(crate) fn of_open(file: &File, block_device: bool) -> Result<(), Problem> {
    if block_device {
        let mut read_only: libc::c_int = 0;
        // SAFETY: BLKROGET writes one `int` through its argument.
        if unsafe { libc::ioctl(file.as_raw_fd(), BLKROGET, &raw mut read_only) } < 0 {
            return Err(Problem::Host(io::Error::last_os_error()));
        }
        return if read_only == 0 { Ok(()) } else { Err(Problem::ReadOnlyDevice) };
    }
    let against_writes = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_FUTURE_WRITE;
    match fcntl(file, FcntlArg::F_GET_SEALS) {
        Ok(seals) if seals & against_writes.bits() != 0 => Err(Problem::Sealed),
        // File systems on disks have no seals.
        _ => Ok(()),
    }
}

/// Returns the reason that the file or block device at `path` cannot be opened for writing, from
/// the error of open(2).
pub(crate) fn of_path(path: &Path, block_device: bool, error: &io::Error) -> Option<Problem> {
    match (error.raw_os_error(), block_device) {
        (Some(libc::EROFS), true) => Some(Problem::ReadOnlyDevice),
        // If the permissions are missing too, a read-only mount returns EACCES.
        (Some(libc::EROFS), false) => Some(Problem::ReadOnlyFileSystem),
        (Some(libc::EACCES), _) => Some(of_permissions(path, block_device)),
        // Missing permissions never cause EPERM.
        (Some(libc::EPERM), false) => Some(Problem::Immutable),
        _ => None,
    }
}

/// Returns the reason that a file or block device without write permission cannot be written:
/// permissions can be changed, a read-only file system cannot.
pub(crate) fn of_permissions(path: &Path, block_device: bool) -> Problem {
    let read_only = || statvfs(path).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY));
    // A device node is writable even on a read-only file system.
    if !block_device && read_only() { Problem::ReadOnlyFileSystem } else { Problem::ReadOnly }
}

/// Flag of open(2) that keeps a read from changing the access time of a file: to note it costs a tenth of reading a block.
pub(crate) const NO_ACCESS_TIME: libc::c_int = libc::O_NOATIME;
