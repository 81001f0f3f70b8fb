//! Opening what is to be a block device, and why it cannot be had.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{DEFAULT_BLOCK_SIZE, MAX_BLOCK_SIZE, protection};
use crate::sys::host_limit::Advice;

/// A block device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No device has blocks of this size. The first words are those of Solo5, which users look for.
    #[error(
        "Block size must be a multiple of 2 greater than or equal 512, a power of two and at most {MAX_BLOCK_SIZE}; it is {0}"
    )]
    BlockSize(u64),
    /// The device is not made of whole blocks. The first words are those of Solo5, which users look for.
    #[error("Backing storage size must be block aligned ({block_size} bytes) and not zero; {} has {capacity} bytes", path.display())]
    Size {
        /// What was opened.
        path: PathBuf,
        /// Its size in bytes.
        capacity: u64,
        /// The block size in bytes.
        block_size: u16,
    },
    /// It could not be opened.
    #[error("{}: {problem}", path.display())]
    Open {
        /// What was to be opened.
        path: PathBuf,
        /// What is wrong with it.
        problem: Problem,
    },
}

/// Why a file or block device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It is neither a file nor a block device.
    #[error("is neither a file nor a block device")]
    Kind,
    /// Its permissions allow reading at most.
    #[error("may not be written: change its permissions, or attach it with --block-readonly")]
    ReadOnly,
    /// It is a block device that is set to read-only.
    #[error(
        "may not be written: the block device is read-only (losetup -r, blockdev --setro); attach it with --block-readonly"
    )]
    ReadOnlyDevice,
    /// It lies on a file system that is mounted read-only.
    #[error("may not be written: its file system is read-only; attach it with --block-readonly, or move it")]
    ReadOnlyFileSystem,
    /// The file is immutable.
    #[error(
        "may not be written, whatever its permissions: if it is immutable, chattr -i; or attach it with --block-readonly"
    )]
    Immutable,
    /// It is a memory file with a seal against writes.
    #[error("may not be written: it is sealed (F_SEAL_WRITE); attach it with --block-readonly")]
    Sealed,
    /// It is locked.
    #[error("is in use by another tender, or attached twice")]
    InUse,
    /// The host itself uses it.
    #[error("is in use by this host: mounted, or part of a RAID, a volume group or the like")]
    Busy,
    /// It has no way around the page cache.
    #[error("lies on a file system without direct I/O (O_DIRECT): leave out --block-direct")]
    NotDirect,
    /// The blocks are smaller than what can go around the page cache, in multiples of so many bytes.
    #[error("takes direct I/O in multiples of {0} bytes only: --block-sector-size={0}, or leave out --block-direct")]
    DirectSize(u64),
    /// The host refuses.
    #[error("cannot be opened: {}{}", _0, Advice::on(_0))]
    Host(#[from] io::Error),
}

/// The block size, if a device can have it.
pub(in crate::device) fn check_block_size(block_size: u64) -> Result<u16, OpenError> {
    u16::try_from(block_size)
        .ok()
        .filter(|size| size.is_power_of_two() && *size >= DEFAULT_BLOCK_SIZE)
        .ok_or(OpenError::BlockSize(block_size))
}

/// To note when a disk was read costs a tenth of reading a block, and is of no use to anybody.
#[cfg(target_os = "linux")]
const NOT_NOTED: libc::c_int = libc::O_NOATIME;
#[cfg(not(target_os = "linux"))]
const NOT_NOTED: libc::c_int = 0;

/// Opens, with these flags of open(2) as well, and locks; returns the size in bytes too.
pub(in crate::device) fn open(path: &Path, read_only: bool, flags: libc::c_int) -> Result<(File, u64), Problem> {
    // Looked at before opening, because to open a device or a FIFO may do something or wait for somebody.
    let found = path.metadata()?;
    let block_device = found.file_type().is_block_device();
    if !found.is_file() && !block_device {
        return Err(Problem::Kind);
    }
    // A file that nobody may write is meant to stay as it is, even where this user may write everything.
    if !read_only && found.is_file() && found.mode() & 0o222 == 0 {
        return Err(protection::of_permissions(path, false));
    }
    let exclusive = if block_device && !read_only { libc::O_EXCL } else { 0 };
    // O_NONBLOCK: what is a FIFO by now must not make the tender wait. It means nothing to files and disks.
    let flags = libc::O_NONBLOCK | exclusive | flags;
    let open = |flags| OpenOptions::new().read(true).write(!read_only).custom_flags(flags).open(path);
    let opened = match open(flags | NOT_NOTED) {
        // Only the owner's wish is heard (open(2)).
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(flags),
        other => other,
    };
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy if block_device => Problem::Busy,
        // None of the flags is wrong but O_DIRECT, where a file system does not have it (open(2)).
        io::ErrorKind::InvalidInput => Problem::NotDirect,
        _ if !read_only => protection::of_path(path, block_device, &error).unwrap_or(Problem::Host(error)),
        _ => Problem::Host(error),
    })?;
    let opened = file.metadata()?.file_type();
    if !opened.is_file() && !opened.is_block_device() {
        return Err(Problem::Kind);
    }
    if !read_only {
        protection::of_open(&file, opened.is_block_device())?;
    }
    check_lock(if read_only { file.try_lock_shared() } else { file.try_lock() }, path)?;
    // Where a file or a block device ends is its size; `metadata` knows that of files only.
    let capacity = file.seek(SeekFrom::End(0))?;
    Ok((file, capacity))
}

/// What it means that a file was locked or not. Some file systems have no locks, those of networks above all; that is no
/// reason not to use what lies there.
fn check_lock(locked: Result<(), TryLockError>, path: &Path) -> Result<(), Problem> {
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Problem::InUse),
        Err(TryLockError::Error(error)) => match error.raw_os_error() {
            Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS) => {
                let path = path.display();
                log::warn!("block device {path} cannot be locked: take care that nothing else writes to it ({error})");
                Ok(())
            }
            _ => Err(Problem::Host(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_without_locks_will_do() {
        let check = |number| {
            check_lock(Err(TryLockError::Error(io::Error::from_raw_os_error(number))), Path::new("/mnt/disk.img"))
        };
        for number in [libc::ENOLCK, libc::EOPNOTSUPP, libc::ENOSYS] {
            assert!(check(number).is_ok(), "{number}");
        }
        assert!(matches!(check(libc::EIO), Err(Problem::Host(_))));
        assert!(matches!(check_lock(Err(TryLockError::WouldBlock), Path::new("x")), Err(Problem::InUse)));
    }
}
