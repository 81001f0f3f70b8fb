//! Sockets that wait for a debugger.

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen, socket};
use nix::sys::stat::{Mode, fchmod, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::connection::Connection;

/// Addresses on which debuggers of this process listen. The user-mode networks of the process
/// connect no guest to them.
static WAITING: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());

fn waiting() -> MutexGuard<'static, Vec<SocketAddr>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether a connection to `to` would reach a debugger port of this process.
#[cfg(feature = "smoltcp")]
pub(crate) fn is_waited_at(to: SocketAddr) -> bool {
    let meant = |at: &SocketAddr| at.ip().is_unspecified() || at.ip() == to.ip();
    waiting().iter().any(|at| at.port() == to.port() && meant(at))
}

/// TCP port, open until this is dropped.
#[derive(Debug)]
pub(super) struct TcpDoor {
    listener: TcpListener,
    address: SocketAddr,
}

impl TcpDoor {
    pub(super) fn open(address: impl ToSocketAddrs) -> io::Result<Self> {
        // Locked before the port exists, so that no guest connects in between.
        let mut waiting = waiting();
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        waiting.push(address);
        Ok(Self { listener, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TcpDoor {
    fn drop(&mut self) {
        let mut waiting = waiting();
        if let Some(position) = waiting.iter().position(|known| *known == self.address) {
            waiting.swap_remove(position);
        }
    }
}

/// Unix socket, removed when this is dropped.
#[derive(Debug)]
pub(super) struct UnixDoor {
    socket: OwnedFd,
    path: PathBuf,
    /// Directory of the path. After a change of the root directory the path itself resolves
    /// differently.
    directory: fs::File,
    /// Device and inode of the socket file. Another process may have replaced the file.
    file: (u64, u64),
}

impl UnixDoor {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
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

/// Socket that waits for a debugger.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpDoor),
    Unix(UnixDoor),
}

impl Listener {
    /// Returns a pending connection.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::WouldBlock`] if no connection is pending.
    pub(super) fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(door) => {
                let (stream, _) = door.listener.accept()?;
                stream.set_nodelay(true)?;
                Connection::new(stream.into())
            }
            Self::Unix(door) => {
                use std::os::fd::FromRawFd;
                let accepted = accept4(door.socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
                // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
                Connection::new(unsafe { OwnedFd::from_raw_fd(accepted) })
            }
        }
    }

    /// Returns the directory from which this removes the socket file.
    pub(super) fn directory(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(door) => Some(door.directory.as_fd()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(door) => door.listener.as_fd(),
            Self::Unix(door) => door.socket.as_fd(),
        }
    }
}

/// Argument of gdb's `target remote`.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(door) => door.address.fmt(f),
            Self::Unix(door) => door.path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_socket_is_for_its_user_alone_and_vanishes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gdb");
        let door = Listener::Unix(UnixDoor::open(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(door.to_string(), path.display().to_string());
        assert!(door.accept().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        let _debugger = UnixStream::connect(&path).unwrap();
        assert!(door.accept().is_ok());
        drop(door);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_is_left_over_is_replaced_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gdb");
        // Closed without removal, as after a kill: the file remains.
        drop(UnixListener::bind(&path).unwrap());
        let door = UnixDoor::open(&path).unwrap();
        let error = UnixDoor::open(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        // The failed attempt made no connection.
        assert!(Listener::Unix(door).accept().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        fs::write(&path, "precious").unwrap();
        assert_eq!(UnixDoor::open(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let long = directory.path().join("x".repeat(108));
        assert_eq!(UnixDoor::open(&long).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    /// Another process may have moved the socket away and created another file there.
    #[test]
    fn a_file_of_another_process_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gdb");
        let door = UnixDoor::open(&path).unwrap();
        fs::rename(&path, directory.path().join("moved")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(door);
        assert!(path.exists());
    }
}
