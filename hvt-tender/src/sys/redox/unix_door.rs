//! Unix socket that a debugger connects to.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A Unix socket, whose path vanishes when this is dropped.
#[derive(Debug)]
pub(crate) struct UnixDoor {
    listener: UnixListener,
    path: PathBuf,
    directory: File,
}

impl UnixDoor {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = File::open(parent)?;
        let listener = UnixListener::bind(path)?;
        let door = Self { listener, path: path.into(), directory };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        door.listener.set_nonblocking(true)?;
        Ok(door)
    }

    /// Accepts a waiting connection.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::WouldBlock`] if no connection waits.
    pub(crate) fn accept(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(false)?;
        Ok(stream.into())
    }

    /// Path of the socket.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory in which this removes a file.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Drop for UnixDoor {
    fn drop(&mut self) {
        // The path stays if it cannot be removed.
        let _ = fs::remove_file(&self.path);
    }
}

impl AsFd for UnixDoor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
