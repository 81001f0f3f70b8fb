//! Opens files and block devices for use as a disk.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{DEFAULT_BLOCK_SIZE, MAX_BLOCK_SIZE};
use crate::sys::protection;

/// Block device that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Invalid block size. The message begins with the words of Solo5, which users may search for.
    #[error(
        "Block size must be a multiple of 2 greater than or equal 512, a power of two and at most {MAX_BLOCK_SIZE}; it is {0}"
    )]
    BlockSize(u64),
    /// Size that is not a multiple of the block size. The message begins with the words of Solo5,
    /// which users may search for.
    #[error("Backing storage size must be block aligned ({block_size} bytes) and not zero; {} has {capacity} bytes", path.display())]
    Size {
        /// Path of the device.
        path: PathBuf,
        /// Size of the device in bytes.
        capacity: u64,
        /// Block size in bytes.
        block_size: u16,
    },
    /// The device could not be opened.
    #[error("{}", path.display())]
    Open {
        /// Path of the device.
        path: PathBuf,
        /// Reason for the failure.
        #[source]
        problem: Problem,
    },
}

/// Reason that a file or block device cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The path is neither a file nor a block device.
    #[error("is neither a file nor a block device")]
    Kind,
    /// The permissions do not allow writing.
    #[error("may not be written: change its permissions, or attach it with --block-readonly")]
    ReadOnly,
    /// The block device is set to read-only.
    #[error(
        "may not be written: the block device is read-only (losetup -r, blockdev --setro); attach it with --block-readonly"
    )]
    ReadOnlyDevice,
    /// The file system is mounted read-only.
    #[error("may not be written: its file system is read-only; attach it with --block-readonly, or move it")]
    ReadOnlyFileSystem,
    /// The file is immutable.
    #[error(
        "may not be written in spite of its permissions: if it is immutable, use chattr -i, or attach it with --block-readonly"
    )]
    Immutable,
    /// The memory file has a seal against writes.
    #[error("may not be written: it is sealed (F_SEAL_WRITE); attach it with --block-readonly")]
    Sealed,
    /// Another tender holds the lock.
    #[error("is in use by another tender, or attached twice")]
    InUse,
    /// The host itself uses the block device.
    #[error("is in use by this host: mounted, or part of a RAID, a volume group or the like")]
    Busy,
    /// The file system does not support direct I/O.
    #[error("is on a file system without direct I/O (O_DIRECT): remove --block-direct")]
    NotDirect,
    /// The block size is smaller than the alignment of direct I/O in bytes.
    #[error("needs direct I/O in multiples of {0} bytes: use --block-sector-size={0}, or remove --block-direct")]
    DirectSize(u64),
    /// The host returned an error.
    #[error("cannot be opened")]
    Host(#[from] io::Error),
}

/// Returns the block size if it is valid.
pub(in crate::device) fn check_block_size(block_size: u64) -> Result<u16, OpenError> {
    u16::try_from(block_size)
        .ok()
        .filter(|size| size.is_power_of_two() && *size >= DEFAULT_BLOCK_SIZE)
        .ok_or(OpenError::BlockSize(block_size))
}

/// Opens the file with additional flags of open(2), and locks it. Returns its size in bytes too.
pub(in crate::device) fn open(path: &Path, read_only: bool, flags: libc::c_int) -> Result<(File, u64), Problem> {
    // Checked before the open, because opening a device can have side effects and opening a FIFO
    // can block.
    let found = path.metadata()?;
    let block_device = found.file_type().is_block_device();
    if !found.is_file() && !block_device {
        return Err(Problem::Kind);
    }
    // A file without any write permission is meant to stay unchanged, even if this user may write
    // every file.
    if !read_only && found.is_file() && found.mode() & 0o222 == 0 {
        return Err(protection::of_permissions(path, false));
    }
    let exclusive = if block_device && !read_only { libc::O_EXCL } else { 0 };
    // O_NONBLOCK: if the path is a FIFO by now, the open must not block. The flag has no effect on
    // files and disks.
    let flags = libc::O_NONBLOCK | exclusive | flags;
    let open = |flags| OpenOptions::new().read(true).write(!read_only).custom_flags(flags).open(path);
    let opened = match open(flags | protection::NO_ACCESS_TIME) {
        // Only the owner may use O_NOATIME (open(2)).
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(flags),
        other => other,
    };
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy if block_device => Problem::Busy,
        // Of these flags only O_DIRECT can be invalid, if the file system does not support it
        // (open(2)).
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
    // The end of a file or block device is its size; `metadata` reports the size of files only.
    let capacity = file.seek(SeekFrom::End(0))?;
    Ok((file, capacity))
}

/// Interprets the result of the lock. Some file systems have no locks, network file systems in
/// particular; their files are used without a lock.
fn check_lock(locked: Result<(), TryLockError>, path: &Path) -> Result<(), Problem> {
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Problem::InUse),
        Err(TryLockError::Error(error)) => match error.raw_os_error() {
            Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS) => {
                let path = path.display();
                log::warn!("block device {path}: cannot lock: {error}: make sure that no other program writes to it");
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
