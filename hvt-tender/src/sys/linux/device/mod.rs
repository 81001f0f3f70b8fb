//! Devices that Linux alone has.

mod direct;
mod interface;
mod io;
mod net;
mod tap;
mod unix;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::device::{BlockOptions, OpenError};

pub use direct::DirectBlock;
pub use net::{Tap, TapError};
pub use tap::Problem as NetProblem;
pub use unix::{Problem as UnixNetProblem, UnixNet, UnixNetError};

/// Network device that is an interface of the host.
pub(crate) type HostInterface = Tap;
pub(crate) type HostInterfaceError = TapError;

/// Attaches to a tap or macvtap interface.
pub(crate) fn open_interface(name: &OsStr, mac: Option<[u8; 6]>) -> Result<HostInterface, HostInterfaceError> {
    Tap::attach(name, mac)
}

/// Takes an inherited descriptor of a tap, a macvtap or a socket.
pub(crate) fn take_interface(fd: OwnedFd, mac: Option<[u8; 6]>) -> Result<HostInterface, HostInterfaceError> {
    Tap::from_fd(fd, mac)
}

/// Opens the cable to another tender at `path`.
pub(crate) fn open_cable(path: PathBuf, mac: Option<[u8; 6]>) -> Result<UnixNet, UnixNetError> {
    UnixNet::attach(path, mac)
}

/// Opens a file or block device without the host's page cache.
pub(crate) fn open_direct(path: PathBuf, options: &BlockOptions) -> Result<DirectBlock, OpenError> {
    DirectBlock::open(path, options)
}
