//! Network devices of a case, and the peer at the other end.
//!
//! A device with an MTU of 1500 is one end of a socket pair that preserves frame boundaries. The
//! tender gets it as an open descriptor, which requires no privileges. Other MTUs need an interface
//! with that MTU: a tap in a network namespace of the test, with a packet socket on the tap as the
//! peer.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use test_suite::{Case, DeviceKind, Exchange, Link};

use crate::tap;

/// MTU of a descriptor that cannot be queried for its MTU.
const DEFAULT_MTU: u16 = 1500;

/// Returns the reason why this user cannot run the case, or `None`.
pub(crate) fn missing_right(case: &Case) -> Option<&'static str> {
    let needs_tap = case.devices.iter().any(|device| match device.kind {
        DeviceKind::Net(link) => link.mtu != DEFAULT_MTU,
        DeviceKind::Block(_) => false,
    });
    (needs_tap && !nix::unistd::geteuid().is_root()).then_some("creating a tap requires root")
}

/// The tender's side of a link.
pub(crate) enum End {
    /// An open descriptor.
    Descriptor(OwnedFd),
    /// An interface.
    Interface {
        /// Network namespace of the interface.
        namespace: OwnedFd,
        /// Name of the interface.
        name: &'static str,
    },
}

/// Formats the end as an argument of the tender.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptor(fd) => write!(f, "@{}", fd.as_raw_fd()),
            Self::Interface { name, .. } => f.write_str(name),
        }
    }
}

/// Creates a link, and returns the tender's side and the test's side.
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

/// The test's side of a link.
pub(crate) struct Peer {
    /// A socket. The type only owns the descriptor; read and write work on any socket.
    socket: UnixStream,
    exchanges: &'static [Exchange],
    /// Interval for repeating the first frame, if that frame may be lost.
    repeat: Option<Duration>,
}

/// Maximum length of a frame that a peer can receive, in bytes.
const LONGEST: usize = 1 << 16;

impl Peer {
    /// Sends each frame of the case and waits for its reply. The link stays up until the peer is
    /// dropped.
    pub(crate) fn converse(mut self, deadline: Instant) -> (Self, Result<(), String>) {
        let talked = self.exchange_all(deadline);
        (self, talked)
    }

    fn exchange_all(&mut self, deadline: Instant) -> Result<(), String> {
        for (index, exchange) in self.exchanges.iter().enumerate() {
            // A tap drops frames until the tender is attached, so the first frame is repeated, as
            // in ARP. A socket pair queues it, and a guest that counts frames must not receive it
            // twice.
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

    /// Receives frames until this frame arrives. Other frames do not belong to the case: the host
    /// also sends frames on a tap.
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
