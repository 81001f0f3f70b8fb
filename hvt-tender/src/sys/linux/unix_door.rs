//! Unix socket that a debugger connects to.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen, socket};
use nix::sys::stat::{Mode, fchmod, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Unix socket, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct UnixDoor {
    socket: OwnedFd,
    path: PathBuf,
    /// Directory of the path. After a change of the root directory the path itself resolves
    /// differently.
    directory: fs::File,
    /// Device and inode of the socket file. Another process may have replaced the file.
    file: (u64, u64),
}

impl UnixDoor {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "the path of a socket has 1 to 107 bytes");
        let address = UnixAddr::new(path).map_err(too_long)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory =
            fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(parent)?;
        remove_stale(path, &address)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        // The file gets the mode of the socket (unix(7)), so no other user can ever connect.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
        bind(socket.as_raw_fd(), &address)?;
        let found = fs::symlink_metadata(path)?;
        let door = Self { socket, path: path.into(), directory, file: (found.dev(), found.ino()) };
        listen(&door.socket, Backlog::new(1)?)?;
        Ok(door)
    }

    /// Accepts a waiting connection.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::WouldBlock`] if no connection waits.
    pub(crate) fn accept(&self) -> io::Result<OwnedFd> {
        let accepted = accept4(self.socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(accepted) })
    }

    /// Path of the socket.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory in which this removes a file.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Returns the device and inode that the path resolves to now.
    fn found(&self) -> Option<(u64, u64)> {
        let found = fstatat(&self.directory, self.path.file_name()?, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        Some((found.st_dev, found.st_ino))
    }
}

impl Drop for UnixDoor {
    fn drop(&mut self) {
        if self.found() != Some(self.file) {
            return;
        }
        let Some(name) = self.path.file_name() else { return };
        if let Err(errno) = unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir) {
            // The user may have changed since (--user). The next tender with this path removes the
            // socket.
            log::info!("{}: cannot remove the debugger's socket: {errno}", self.path.display());
        }
    }
}

impl AsFd for UnixDoor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Removes the socket of a process that has exited.
fn remove_stale(path: &Path, address: &UnixAddr) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    // A datagram socket cannot connect to the stream socket at the path, but the error shows
    // whether a process listens there. A stream connection would be taken for the debugger.
    let probe = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    match connect(probe.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path),
        Err(Errno::ENOENT) => Ok(()),
        Ok(()) | Err(Errno::EPROTOTYPE) => Err(io::Error::new(io::ErrorKind::AddrInUse, "in use by another process")),
        Err(errno) => Err(errno.into()),
    }
}
