//! Devices of the host, with the traits of [`hvt_core::device`].

#[cfg(unix)]
mod block;
#[cfg(target_os = "linux")]
mod capture;
mod clock;
#[cfg(unix)]
mod console;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(any(target_os = "linux", target_os = "redox"))]
mod frame_fd;
#[cfg(target_os = "linux")]
mod interface;
#[cfg(unix)]
mod io;
#[cfg(target_os = "linux")]
mod net;
#[cfg(any(target_os = "linux", target_os = "redox"))]
mod poll;
#[cfg(target_os = "redox")]
mod scheme;
#[cfg(target_os = "linux")]
mod tap;
#[cfg(all(test, target_os = "linux"))]
pub(crate) mod testing;
#[cfg(target_os = "linux")]
mod unix;

#[cfg(target_os = "linux")]
pub use block::DirectBlock;
#[cfg(unix)]
pub use block::{DEFAULT_BLOCK_SIZE, FileBlock, OpenError, Options as BlockOptions, Problem as BlockProblem};
#[cfg(target_os = "linux")]
pub use capture::CapturedOutput;
pub use clock::{StartingClock, SystemClock};
#[cfg(unix)]
pub use console::FdConsole;
#[cfg(target_os = "linux")]
pub use disk::Disk;
pub use hvt_core::device::*;
#[cfg(target_os = "linux")]
pub(crate) use net::random_mac;
#[cfg(target_os = "linux")]
pub use net::{Tap, TapError};
#[cfg(any(target_os = "linux", target_os = "redox"))]
pub use poll::{Arrivals, Endpoint, FdPoller, Pollable, Senders};
#[cfg(target_os = "redox")]
pub use scheme::SchemeNet;
#[cfg(target_os = "linux")]
pub use tap::Problem as NetProblem;
#[cfg(target_os = "linux")]
pub use unix::{Problem as UnixNetProblem, UnixNet, UnixNetError};
