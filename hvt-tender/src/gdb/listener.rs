//! Sockets that wait for a debugger.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::connection::Connection;
use crate::debugger_port::TcpDoor;
use crate::sys::unix_door::UnixDoor;

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
                let (stream, _) = door.accept()?;
                stream.set_nodelay(true)?;
                Connection::new(stream.into())
            }
            Self::Unix(door) => Connection::new(door.accept()?),
        }
    }

    /// Returns the directory from which this removes the socket file.
    pub(super) fn directory(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(door) => Some(door.directory()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(door) => door.as_fd(),
            Self::Unix(door) => door.as_fd(),
        }
    }
}

/// Argument of gdb's `target remote`.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(door) => door.address().fmt(f),
            Self::Unix(door) => door.path().display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;
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
