//! Sockets, as Redox makes and uses them.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, socket};

/// Flag of send(2) with which a peer that is gone is an error and no signal: Redox sends no signal.
pub(crate) const NO_SIGNAL: MsgFlags = MsgFlags::empty();

/// Makes a TCP socket that does not block.
pub(crate) fn tcp(family: AddressFamily) -> io::Result<OwnedFd> {
    let socket = socket(family, SockType::Stream, SockFlag::empty(), SockProtocol::Tcp)?;
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(socket)
}
