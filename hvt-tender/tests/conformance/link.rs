//! Network devices of a case, and the peer at the other end.
//!
//! A device with an MTU of 1500 is one end of a pair of sockets that keep frames apart: the tender takes it as an open
//! descriptor, and nobody needs any right. Other MTUs need an interface that has them: a tap in a network namespace
//! of the test's own, the peer being a packet socket on it.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use test_suite::{Case, DeviceKind, Exchange, Link};

use crate::tap;

/// The MTU of what cannot be asked for it.
const DEFAULT_MTU: u16 = 1500;

/// Why this user cannot run the case, if so.
pub(crate) fn missing_right(case: &Case) -> Option<&'static str> {
    let needs_tap = case.devices.iter().any(|device| match device.kind {
        DeviceKind::Net(link) => link.mtu != DEFAULT_MTU,
        DeviceKind::Block(_) => false,
    });
    (needs_tap && !nix::unistd::geteuid().is_root()).then_some("making a tap needs root")
}

/// The tender's end of a link.
pub(crate) enum End {
    /// An open descriptor.
    Descriptor(OwnedFd),
    /// An interface.
    Interface {
        /// The network namespace that has it.
        namespace: OwnedFd,
        /// Its name.
        name: &'static str,
    },
}

/// As on the tender's command line.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptor(fd) => write!(f, "@{}", fd.as_raw_fd()),
            Self::Interface { name, .. } => f.write_str(name),
        }
    }
}

/// Makes a link: the tender's end, and the test's.
pub(crate) fn create(link: &Link) -> io::Result<(End, Peer)> {
    let (end, socket, repeat) = if link.mtu == DEFAULT_MTU {
        let (device, socket) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        (End::Descriptor(device), socket, None)
    } else {
        let tap::Tap { namespace, name, socket } = tap::create(link.mtu)?;
        (End::Interface { namespace, name }, socket, Some(Duration::from_millis(250)))
    };
    Ok((end, Peer { socket: socket.into(), exchanges: link.exchanges, repeat }))
}

/// The test's end of a link.
pub(crate) struct Peer {
    /// Its reads and writes are those of any socket; the type only owns the descriptor.
    socket: UnixStream,
    exchanges: &'static [Exchange],
    /// After how long the first frame is sent again, if it may be lost.
    repeat: Option<Duration>,
}

/// The longest frame that a peer can receive.
const LONGEST: usize = 1 << 16;

impl Peer {
    /// Sends each frame of the case, and waits for the answer to it. The link stays up until the peer is dropped.
    pub(crate) fn converse(mut self, deadline: Instant) -> (Self, Result<(), String>) {
        let talked = self.exchange_all(deadline);
        (self, talked)
    }

    fn exchange_all(&mut self, deadline: Instant) -> Result<(), String> {
        for (index, exchange) in self.exchanges.iter().enumerate() {
            // A tap drops what is sent before the tender is there, so the first frame is repeated, as askers of ARP do. A
            // pair of sockets keeps it, and a guest that counts frames must not see it twice.
            let repeat = if index == 0 { self.repeat } else { None };
            self.exchange(exchange, repeat, deadline).map_err(|error| format!("exchange {index}: {error}"))?;
        }
        Ok(())
    }

    fn exchange(&mut self, exchange: &Exchange, repeat: Option<Duration>, deadline: Instant) -> io::Result<()> {
        loop {
            self.socket.write_all(exchange.frame)?;
            let until = repeat.map_or(deadline, |repeat| deadline.min(Instant::now() + repeat));
            match self.wait_for(exchange.reply, until) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut && Instant::now() < deadline => {}
                result => return result,
            }
        }
    }

    /// Receives until this frame comes. Others are no part of the case: a tap's host has much to say.
    fn wait_for(&mut self, reply: &[u8], until: Instant) -> io::Result<()> {
        let mut frame = [0; LONGEST];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.read(&mut frame) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) if frame[..len] == *reply => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
