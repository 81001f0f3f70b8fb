//! Protection against writes on Redox: the permissions of a file, and file systems that are read-only.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::device::block::Problem;

/// Redox has no disk that can be opened for writing and not be written.
#[expect(clippy::unnecessary_wraps, reason = "Linux has such disks")]
pub(in crate::device) fn of_open(_: &File, _: bool) -> Result<(), Problem> {
    Ok(())
}

/// Reason that a file may not be opened for writing, by the error of open(2).
pub(in crate::device) fn of_path(_: &Path, _: bool, error: &io::Error) -> Option<Problem> {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => Some(Problem::ReadOnlyFileSystem),
        io::ErrorKind::PermissionDenied => Some(Problem::ReadOnly),
        _ => None,
    }
}

/// Reason that a file without write permission may not be written.
pub(in crate::device) fn of_permissions(_: &Path, _: bool) -> Problem {
    Problem::ReadOnly
}
