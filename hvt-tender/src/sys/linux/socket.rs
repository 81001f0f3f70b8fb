//! Sockets, as Linux makes and uses them.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, socket};

/// Flag of send(2) with which a peer that is gone is an error and no signal.
pub(crate) const NO_SIGNAL: MsgFlags = MsgFlags::MSG_NOSIGNAL;

/// Makes a TCP socket that does not block.
pub(crate) fn tcp(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(family, SockType::Stream, flags, SockProtocol::Tcp)?)
}
