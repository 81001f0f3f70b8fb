//! Directory that files are created in.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A directory, open.
#[derive(Debug)]
pub(crate) struct Directory {
    directory: File,
    path: PathBuf,
}

impl Directory {
    /// Flags of open(2) with which files are created: a file that exists is not opened.
    pub(crate) const CREATES: libc::c_int = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;

    /// Opens a directory.
    pub(crate) fn writable(path: &Path) -> io::Result<Self> {
        let directory = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)?;
        Ok(Self { directory, path: path.canonicalize()? })
    }

    /// Creates a file that its owner alone may read.
    pub(crate) fn create(&self, name: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path.join(name))
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}
