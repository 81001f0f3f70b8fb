//! TCP connections and listeners of a host.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{RecvError, State};

use super::core::{Core, Shared, peer};

/// TCP connection of a [`Host`](super::Host).
///
/// Reads and writes fail with [`io::ErrorKind::TimedOut`] after the host's timeout
/// ([`HostBuilder::timeout`](super::HostBuilder::timeout)), or after the timeout of
/// [`set_timeout`](Self::set_timeout).
///
/// When the stream is dropped, the connection is closed with FIN if all received data was read, and
/// with RST otherwise.
pub struct HostStream {
    shared: Arc<Shared>,
    handle: SocketHandle,
    peer: SocketAddrV4,
    timeout: Mutex<Duration>,
}

impl fmt::Debug for HostStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl HostStream {
    /// Connects to `to`.
    pub(super) fn connect(
        shared: &Arc<Shared>,
        from: Ipv4Addr,
        to: SocketAddrV4,
        timeout: Duration,
    ) -> io::Result<Self> {
        let handle = shared.act(|core| core.stack.connect(from, to))??;
        // From here on, the drop of `stream` closes the connection.
        let stream = Self::new(shared, handle, to, timeout);
        let connected = shared.wait(timeout, |core| match core.tcp(handle).state() {
            State::SynSent | State::SynReceived => None,
            State::Closed => {
                let what = format!("connection refused by {to}");
                Some(Err(io::Error::new(io::ErrorKind::ConnectionRefused, what)))
            }
            _ => Some(Ok(())),
        });
        match connected {
            Ok(()) => Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {to} within {timeout:?}")))
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for the next connection to `port`.
    pub(super) fn accept(shared: &Arc<Shared>, port: u16, timeout: Duration) -> io::Result<Self> {
        let (handle, peer) = shared.wait(timeout, |core| {
            let handle = core.ports.accept(port, &mut core.stack.sockets)?;
            // An established connection has a remote address; the fallback is never used.
            let peer = peer(core.tcp(handle)).unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
            Some(Ok((handle, peer)))
        })?;
        Ok(Self::new(shared, handle, peer, timeout))
    }

    fn new(shared: &Arc<Shared>, handle: SocketHandle, peer: SocketAddrV4, timeout: Duration) -> Self {
        Self { shared: shared.clone(), handle, peer, timeout: Mutex::new(timeout) }
    }

    /// Returns the remote address.
    #[must_use]
    pub fn peer(&self) -> SocketAddrV4 {
        self.peer
    }

    /// Sets the timeout of every read, write and flush.
    pub fn set_timeout(&self, timeout: Duration) {
        *self.timeout.lock().unwrap_or_else(PoisonError::into_inner) = timeout;
    }

    /// Closes the sending half of the connection. The peer reads the data written so far, then end
    /// of file.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::NotConnected`] if the host has been dropped.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.shared.act(|core| core.tcp(self.handle).close())
    }

    fn wait<R>(&self, attempt: impl FnMut(&mut Core) -> Option<io::Result<R>>) -> io::Result<R> {
        let timeout = *self.timeout.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.wait(timeout, attempt)
    }
}

impl Read for &HostStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        self.wait(|core| match core.tcp(self.handle).recv_slice(into) {
            Ok(0) => None,
            Ok(read) => Some(Ok(read)),
            Err(RecvError::Finished) => Some(Ok(0)),
            Err(RecvError::InvalidState) => Some(Err(io::ErrorKind::ConnectionReset.into())),
        })
    }
}

impl Write for &HostStream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        if from.is_empty() {
            return Ok(0);
        }
        self.wait(|core| match core.tcp(self.handle).send_slice(from) {
            Ok(0) => None,
            Ok(written) => Some(Ok(written)),
            Err(_) => Some(Err(io::ErrorKind::BrokenPipe.into())),
        })
    }

    /// Waits until the peer has acknowledged all written data.
    fn flush(&mut self) -> io::Result<()> {
        self.wait(|core| match core.tcp(self.handle) {
            socket if socket.send_queue() == 0 => Some(Ok(())),
            socket if socket.state() == State::Closed => Some(Err(io::ErrorKind::ConnectionReset.into())),
            _ => None,
        })
    }
}

impl Read for HostStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        (&*self).read(into)
    }
}

impl Write for HostStream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        (&*self).write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self).flush()
    }
}

impl Drop for HostStream {
    fn drop(&mut self) {
        // A dropped host has reset the connection already.
        let _ = self.shared.act(|core| core.abandon(self.handle));
    }
}

/// TCP listener of a [`Host`](super::Host). When it is dropped, connections that were not accepted
/// are reset.
pub struct HostListener {
    shared: Arc<Shared>,
    port: u16,
    timeout: Duration,
}

impl fmt::Debug for HostListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostListener").field("port", &self.port).finish_non_exhaustive()
    }
}

impl HostListener {
    pub(super) fn new(shared: &Arc<Shared>, port: u16, timeout: Duration) -> io::Result<Self> {
        if !shared.act(|core| core.ports.open(port))? {
            let what = format!("port {port} is in use or invalid");
            return Err(io::Error::new(io::ErrorKind::AddrInUse, what));
        }
        Ok(Self { shared: shared.clone(), port, timeout })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::TimedOut`] if no connection arrives within the host's timeout, and
    /// [`io::ErrorKind::NotConnected`] if the host has been dropped.
    pub fn accept(&self) -> io::Result<HostStream> {
        HostStream::accept(&self.shared, self.port, self.timeout)
    }
}

impl Drop for HostListener {
    fn drop(&mut self) {
        let _ = self.shared.act(|core| {
            for handle in core.ports.close(self.port) {
                core.tcp(handle).abort();
                core.abandon(handle);
            }
        });
    }
}
