//! Devices of the host, with the traits of [`hvt_core::device`].

pub(crate) mod block;
mod capture;
mod clock;
mod console;
mod disk;
pub(crate) mod frame_fd;
pub(crate) mod io;
mod mac;
mod poll;
#[cfg(test)]
pub(crate) mod testing;

pub use crate::sys::device::*;
pub use block::{DEFAULT_BLOCK_SIZE, FileBlock, OpenError, Options as BlockOptions, Problem as BlockProblem};
pub use capture::CapturedOutput;
pub use clock::{StartingClock, SystemClock};
pub use console::FdConsole;
pub use disk::Disk;
pub use hvt_core::device::{
    AttachError, Block, Clock, Console, Descriptor, DeviceError, HelperThread, Job, Net, Sleep, Uses,
};
pub(crate) use hvt_core::device::{Attached, Devices, Doorbell, Interrupted, Poller, Slot, attach};
pub(crate) use mac::random_mac;
pub(crate) use poll::FdPoller;
pub use poll::{Arrivals, Endpoint, Pollable, Senders};
