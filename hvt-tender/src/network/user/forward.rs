//! Ports of the host that are forwarded to the guest.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use crate::config::Forward;

/// Listener on a port of the host that is forwarded to the guest.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    address: SocketAddr,
    /// Port of the guest.
    pub(super) port: u16,
    /// Set if the last accept(2) failed.
    failing: bool,
}

impl Door {
    /// Starts to listen.
    pub(super) fn open(forward: &Forward) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen at {}: {error}", forward.host));
        let listener = TcpListener::bind(forward.host).map_err(named)?;
        listener.set_nonblocking(true).map_err(named)?;
        let address = listener.local_addr().map_err(named)?;
        Ok(Self { listener, address, port: forward.guest, failing: false })
    }

    /// Returns the address of the listener.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts a connection if one is pending.
    pub(super) fn accept(&mut self) -> Option<TcpStream> {
        let accepted = self.listener.accept().and_then(|(stream, _)| {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        match accepted {
            Ok(stream) => {
                self.failing = false;
                Some(stream)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                // The client may have disconnected already, or the process has no descriptor left.
                if !self.failing {
                    log::warn!("forward {}: cannot accept connections: {error}", self.address);
                }
                self.failing = true;
                None
            }
        }
    }

    /// Returns whether the last accept(2) failed. The connection then stays pending and the
    /// listener readable: retry after a delay instead of polling the listener.
    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
