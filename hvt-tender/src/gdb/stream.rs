//! Connected socket of a debugger: TCP or Unix.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, Shutdown, recv, send, setsockopt, shutdown, sockopt};
use nix::sys::time::TimeVal;

use crate::sys::socket::NO_SIGNAL;

/// Connected socket. For both address families it uses `recvfrom`, `sendto` and `shutdown`, the
/// system calls that the sandbox allows. The standard library uses different calls for the two
/// families.
#[derive(Debug)]
pub(super) struct Stream(OwnedFd);

impl Stream {
    /// Wraps a blocking socket. A write that takes longer than `patience` fails.
    pub(super) fn new(socket: OwnedFd, patience: Duration) -> io::Result<Self> {
        let patience = TimeVal::new(patience.as_secs().try_into().unwrap_or(i64::MAX), 0);
        setsockopt(&socket, sockopt::SendTimeout, &patience)?;
        Ok(Self(socket))
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Closes both directions of the connection.
    pub(super) fn hang_up(&self) {
        // Fails if the debugger has already closed the connection.
        let _ = shutdown(self.as_raw_fd(), Shutdown::Both);
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.as_raw_fd(), into, MsgFlags::empty())?)
    }
}

impl Write for Stream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        Ok(send(self.as_raw_fd(), from, NO_SIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
