//! Devices that Linux alone has.

mod direct;
mod interface;
mod io;
mod net;
mod tap;
mod unix;

pub use direct::DirectBlock;
pub(crate) use net::random_mac;
pub use net::{Tap, TapError};
pub use tap::Problem as NetProblem;
pub use unix::{Problem as UnixNetProblem, UnixNet, UnixNetError};

/// Network device that is an interface of the host.
pub(crate) type HostInterface = Tap;
