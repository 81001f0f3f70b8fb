//! Ports of the host that lead to the guest.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use crate::config::Forward;

/// A port at which the host listens for the guest.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    address: SocketAddr,
    /// The guest's port.
    pub(super) port: u16,
    /// Its last attempt to let somebody in failed.
    failing: bool,
}

impl Door {
    /// Begins to listen.
    pub(super) fn open(forward: &Forward) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen at {}: {error}", forward.host));
        let listener = TcpListener::bind(forward.host).map_err(named)?;
        listener.set_nonblocking(true).map_err(named)?;
        let address = listener.local_addr().map_err(named)?;
        Ok(Self { listener, address, port: forward.guest, failing: false })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets somebody in, if there is somebody.
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
                // Who was there may be gone again, or this process has no descriptor left.
                if !self.failing {
                    log::warn!("{}: nobody gets in: {error}", self.address);
                }
                self.failing = true;
                None
            }
        }
    }

    /// Whether to look here at all: when it fails, somebody is there and stays there.
    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
