//! A TCP connection of the guest, and the one of the host that it leads to.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, sockopt};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{RecvError, Socket, State};

use crate::interrupted::retry;
use crate::network::ip::Flow;

/// How long both sides may take to agree on a connection.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// A connection that the guest wants to begin, while it is not known what comes of it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) flow: Flow,
    /// What the guest has begun it with.
    pub(super) frame: Vec<u8>,
    host: TcpStream,
}

impl Asked {
    /// Begins to connect to `to`.
    pub(super) fn new(flow: Flow, frame: Vec<u8>, to: SocketAddr) -> Result<Self, (io::Error, Vec<u8>)> {
        match connect(to) {
            Ok(host) => Ok(Self { flow, frame, host }),
            Err(error) => Err((error, frame)),
        }
    }

    /// What has come of it, once the host's socket is ready: the guest's first frame and, if all is well, the host's end.
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

/// A connection, from one end to the other.
#[derive(Debug)]
pub(super) struct Connection {
    guest: SocketHandle,
    host: TcpStream,
    /// Both ends know of each other.
    open: bool,
    /// The host's end has nothing more to say.
    host_finished: bool,
    /// The guest has nothing more to say, and the host's end knows.
    guest_finished: bool,
    begun: Instant,
}

impl Connection {
    /// Joins a connection that has been begun, by the guest or with it, and one of the host's.
    pub(super) fn new(guest: SocketHandle, host: TcpStream, sockets: &mut SocketSet<'static>) -> Self {
        sockets.get_mut::<Socket<'_>>(guest).set_timeout(Some(HANDSHAKE.into()));
        Self { guest, host, open: false, host_finished: false, guest_finished: false, begun: Instant::now() }
    }

    /// What of the host's socket is waited for.
    pub(super) fn interest(&self, sockets: &SocketSet<'static>) -> PollFlags {
        let socket = sockets.get::<Socket<'_>>(self.guest);
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLOUT, self.open && socket.can_recv());
        interest.set(PollFlags::POLLIN, self.open && !self.host_finished && socket.can_send());
        interest
    }

    /// Moves everything on; returns whether there is something left to move. `ready` is what the host's socket is.
    pub(super) fn turn(&mut self, ready: PollFlags, sockets: &mut SocketSet<'static>) -> bool {
        let socket = sockets.get_mut::<Socket<'_>>(self.guest);
        self.advance(ready, socket).unwrap_or_else(|error| {
            log::debug!("a connection of the guest ends: {error}");
            false
        })
    }

    fn advance(&mut self, ready: PollFlags, socket: &mut Socket<'static>) -> io::Result<bool> {
        if !self.open {
            if matches!(socket.state(), State::SynSent | State::SynReceived) {
                // The stack's own timer stands still while the guest has no room for frames.
                return Ok(self.begun.elapsed() < HANDSHAKE);
            }
            socket.set_timeout(None);
            self.open = true;
        }
        self.carry_out(socket)?;
        if !ready.is_empty() {
            self.carry_in(socket)?;
        }
        // What comes then concerns the stack alone.
        Ok(socket.can_recv() || !matches!(socket.state(), State::Closed | State::TimeWait))
    }

    /// What the guest has said goes to the host's end.
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

    /// What the host's end has said goes to the guest.
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

    /// Ends it: with a reset at both ends, unless both had said all. Returns the stack's socket, which may have something
    /// left to send.
    pub(super) fn end(self, sockets: &mut SocketSet<'static>) -> SocketHandle {
        if !(self.guest_finished && self.host_finished) {
            // One that is not connected any more has been told.
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

/// Begins to connect.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
    match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Nothing where a call would have to wait.
fn again(call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    match retry(call) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}
