//! Directory that files are created in when its path cannot be looked up any more.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, faccessat};

/// A directory, open.
#[derive(Debug)]
pub(crate) struct Directory(OwnedFd);

impl Directory {
    /// Flags of open(2) with which files are created: a file that exists is not opened.
    pub(crate) const CREATES: libc::c_int = CREATES.bits();

    /// Opens a directory in which this process may create files.
    pub(crate) fn writable(path: &Path) -> io::Result<Self> {
        let directory = open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        faccessat(&directory, c".", AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS)?;
        Ok(Self(directory))
    }

    /// Creates a file that its owner alone may read.
    pub(crate) fn create(&self, name: &Path) -> io::Result<File> {
        Ok(File::from(openat(&self.0, name, CREATES, Mode::S_IRUSR | Mode::S_IWUSR)?))
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

const CREATES: OFlag = OFlag::O_WRONLY.union(OFlag::O_CREAT).union(OFlag::O_EXCL).union(OFlag::O_CLOEXEC);
