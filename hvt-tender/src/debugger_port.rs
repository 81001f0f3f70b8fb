//! TCP ports on which debuggers of this process listen.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Addresses on which debuggers of this process listen. The user-mode networks of the process
/// connect no guest to them.
static WAITING: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());

fn waiting() -> MutexGuard<'static, Vec<SocketAddr>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether a connection to `to` would reach a debugger port of this process.
pub(crate) fn is_waited_at(to: SocketAddr) -> bool {
    let meant = |at: &SocketAddr| at.ip().is_unspecified() || at.ip() == to.ip();
    waiting().iter().any(|at| at.port() == to.port() && meant(at))
}

/// TCP port, open until this is dropped.
#[derive(Debug)]
pub(crate) struct TcpDoor {
    listener: TcpListener,
    address: SocketAddr,
}

impl TcpDoor {
    pub(crate) fn open(address: impl ToSocketAddrs) -> io::Result<Self> {
        // Locked before the port exists, so that no guest connects in between.
        let mut waiting = waiting();
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        waiting.push(address);
        Ok(Self { listener, address })
    }

    pub(crate) fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.listener.accept()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl AsFd for TcpDoor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
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
