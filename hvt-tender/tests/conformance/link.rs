//! Network devices of a case, and the peer at the other end.
//!
//! A device with an MTU of 1500 is one end of a pair of sockets that keep frames apart: the tender takes it as an open
//! descriptor, and nobody needs any right. Other MTUs need an interface that has them: a tap in a network namespace
//! of the test's own, the peer being a packet socket on it.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
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

/// Makes a link: the tender's end, and the test's.
pub(crate) fn create(link: &Link) -> io::Result<(OwnedFd, Peer)> {
    let (device, socket) = if link.mtu == DEFAULT_MTU {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?
    } else {
        tap::create(link.mtu)?
    };
    Ok((device, Peer { socket: socket.into(), exchanges: link.exchanges }))
}

/// The test's end of a link.
pub(crate) struct Peer {
    /// Its reads and writes are those of any socket; the type only owns the descriptor.
    socket: UnixStream,
    exchanges: &'static [Exchange],
}

/// The longest frame that a peer can receive.
const LONGEST: usize = 1 << 16;

impl Peer {
    /// Sends each frame of the case, and waits for the answer to it.
    pub(crate) fn converse(mut self, deadline: Instant) -> Result<(), String> {
        for (index, exchange) in self.exchanges.iter().enumerate() {
            let fail = |what: &str| Err(format!("exchange {index}: {what}"));
            if let Err(error) = self.socket.write_all(exchange.frame) {
                return fail(&format!("cannot send: {error}"));
            }
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return fail("no answer");
                }
                let timeout = self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1))));
                timeout.map_err(|error| error.to_string())?;
                let mut frame = [0; LONGEST];
                match self.socket.read(&mut frame) {
                    Ok(0) => return fail("the tender has closed the link"),
                    Ok(len) if frame[..len] == *exchange.reply => break,
                    // A frame that is no part of the case: a tap's host has much to say.
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return fail("no answer"),
                    Err(error) => return fail(&format!("cannot receive: {error}")),
                }
            }
        }
        Ok(())
    }
}
