//! TCP connections of the guest, each with its socket of the host.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{self, AddressFamily, SockaddrStorage, sockopt};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{RecvError, Socket, State};

use crate::interrupted::retry;
use crate::network::ip::Flow;
use crate::sys;

/// Timeout of the guest's TCP handshake.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// Connection that the guest has requested, while the host's connect(2) is in progress.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) flow: Flow,
    /// SYN frame of the guest.
    pub(super) frame: Vec<u8>,
    host: TcpStream,
}

impl Asked {
    /// Starts a connection to `to`. Returns the frame with the error if it fails immediately.
    pub(super) fn new(flow: Flow, frame: Vec<u8>, to: SocketAddr) -> Result<Self, (io::Error, Vec<u8>)> {
        match connect(to) {
            Ok(host) => Ok(Self { flow, frame, host }),
            Err(error) => Err((error, frame)),
        }
    }

    /// Returns the guest's SYN frame and the result of connect(2). Call it once the host's socket
    /// is ready.
    pub(super) fn answer(self) -> (Vec<u8>, io::Result<TcpStream>) {
        let host = match self.host.take_error() {
            Ok(None) => Ok(self.host),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        (self.frame, host)
    }
}

impl AsFd for Asked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.host.as_fd()
    }
}

/// TCP connection of the guest with the host's socket that it is forwarded to.
#[derive(Debug)]
pub(super) struct Connection {
    guest: SocketHandle,
    host: TcpStream,
    /// The guest's handshake is complete.
    open: bool,
    /// The host's socket has reached end of file.
    host_finished: bool,
    /// The guest has closed its sending half, and the host's socket has been shut down for writing.
    guest_finished: bool,
    begun: Instant,
}

impl Connection {
    /// Joins a connection of the guest, whose handshake is in progress, with a socket of the host.
    pub(super) fn new(guest: SocketHandle, host: TcpStream, sockets: &mut SocketSet<'static>) -> Self {
        sockets.get_mut::<Socket<'_>>(guest).set_timeout(Some(HANDSHAKE.into()));
        Self { guest, host, open: false, host_finished: false, guest_finished: false, begun: Instant::now() }
    }

    /// Returns the events of the host's socket to wait for.
    pub(super) fn interest(&self, sockets: &SocketSet<'static>) -> PollFlags {
        let socket = sockets.get::<Socket<'_>>(self.guest);
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLOUT, self.open && socket.can_recv());
        interest.set(PollFlags::POLLIN, self.open && !self.host_finished && socket.can_send());
        interest
    }

    /// Carries data in both directions. Returns false once the connection is finished. `ready` is
    /// the readiness of the host's socket.
    pub(super) fn turn(&mut self, ready: PollFlags, sockets: &mut SocketSet<'static>) -> bool {
        let socket = sockets.get_mut::<Socket<'_>>(self.guest);
        self.advance(ready, socket).unwrap_or_else(|error| {
            log::debug!("user-mode networking: connection closed: {error}");
            false
        })
    }

    fn advance(&mut self, ready: PollFlags, socket: &mut Socket<'static>) -> io::Result<bool> {
        if !self.open {
            if matches!(socket.state(), State::SynSent | State::SynReceived) {
                // The stack's timer does not advance while the guest has no room for frames.
                return Ok(self.begun.elapsed() < HANDSHAKE);
            }
            socket.set_timeout(None);
            self.open = true;
        }
        self.carry_out(socket)?;
        if !ready.is_empty() {
            self.carry_in(socket)?;
        }
        // In these states, only the stack has work left.
        Ok(socket.can_recv() || !matches!(socket.state(), State::Closed | State::TimeWait))
    }

    /// Carries data from the guest to the host's socket.
    fn carry_out(&mut self, socket: &mut Socket<'static>) -> io::Result<()> {
        while socket.can_recv() {
            let written = socket.recv(|bytes| match again(|| self.host.write(bytes)) {
                Ok(written) => (written, Ok(written)),
                Err(error) => (0, Err(error)),
            });
            match written {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) | Err(_) => break,
                Ok(Err(error)) => return Err(error),
            }
        }
        match socket.peek(1) {
            Err(RecvError::Finished) if !self.guest_finished => {
                self.guest_finished = true;
                self.host.shutdown(Shutdown::Write)
            }
            Err(RecvError::InvalidState) => Err(io::ErrorKind::ConnectionReset.into()),
            _ => Ok(()),
        }
    }

    /// Carries data from the host's socket to the guest.
    fn carry_in(&mut self, socket: &mut Socket<'static>) -> io::Result<()> {
        while socket.can_send() && !self.host_finished {
            let read = socket.send(|room| match room.is_empty() {
                true => (0, Ok(None)),
                false => match self.host.read(room) {
                    Ok(read) => (read, Ok(Some(read))),
                    Err(error) => (0, Err(error)),
                },
            });
            match read {
                Ok(Ok(Some(0))) => {
                    self.host_finished = true;
                    socket.close();
                }
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) | Err(_) => break,
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Closes the connection, with RST at both ends unless both ends have finished. Returns the
    /// stack's socket, which may have data left to send.
    pub(super) fn end(self, sockets: &mut SocketSet<'static>) -> SocketHandle {
        if !(self.guest_finished && self.host_finished) {
            // Fails only if the socket is not connected any more.
            let _ = socket::setsockopt(&self.host, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
            sockets.get_mut::<Socket<'_>>(self.guest).abort();
        }
        self.guest
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.host.as_fd()
    }
}

/// Starts a non-blocking connection to `to`.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = sys::socket::tcp(family)?;
    match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Repeats an interrupted call. Returns 0 if the call would block.
fn again(call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    match retry(call) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}
