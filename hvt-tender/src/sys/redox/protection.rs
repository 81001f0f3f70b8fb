//! Write protection on Redox: the permissions of a file, and read-only file systems.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::device::BlockProblem as Problem;

/// On Redox, a disk that can be opened for writing can be written.
#[expect(clippy::unnecessary_wraps, reason = "Linux has such disks")]
pub(crate) fn of_open(_: &File, _: bool) -> Result<(), Problem> {
    Ok(())
}

/// Returns the reason that a file cannot be opened for writing, from the error of open(2).
pub(crate) fn of_path(_: &Path, _: bool, error: &io::Error) -> Option<Problem> {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => Some(Problem::ReadOnlyFileSystem),
        io::ErrorKind::PermissionDenied => Some(Problem::ReadOnly),
        _ => None,
    }
}

/// Returns the reason that a file without write permission cannot be written.
pub(crate) fn of_permissions(_: &Path, _: bool) -> Problem {
    Problem::ReadOnly
}

/// Flag of open(2) that keeps a read from changing the access time of a file: Redox has none.
pub(crate) const NO_ACCESS_TIME: libc::c_int = 0;
