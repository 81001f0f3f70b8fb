//! Waiting of a host's thread.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use crate::cancel::CancelToken;
use crate::device::{Endpoint, Interrupted, Poller as _};
use crate::network::ip::{Stack, StackDoorbell, wait};
use crate::virtual_time::{VirtualPoller, VirtualTime};

/// Wait of a host's thread: in poll(2), or for its turn among the guests of a virtual time.
pub(super) enum Rest {
    Real(Arc<Endpoint>),
    Virtual(VirtualPoller),
}

impl Rest {
    /// Creates the wait of this stack's thread. Returns it with the doorbell that ends the wait,
    /// and the virtual time, if any.
    pub(super) fn new(stack: &Stack) -> io::Result<(Self, Arc<StackDoorbell>, Option<VirtualTime>)> {
        let Some((time, frames)) = stack.arrivals() else {
            return Ok((Self::Real(stack.endpoint()), StackDoorbell::new()?, None));
        };
        let stop = CancelToken::new()?;
        let doorbell = StackDoorbell::in_virtual_time(&time, &stop);
        let poller = VirtualPoller::for_host(time.clone(), vec![(0, frames), (1, doorbell.clone())], stop)?;
        Ok((Self::Virtual(poller), doorbell, Some(time)))
    }

    /// Waits for the first turn of the thread.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        match self {
            Self::Real(_) => Ok(()),
            Self::Virtual(poller) => poller.begin().or_else(ended),
        }
    }

    /// Waits until a frame arrives, the doorbell rings, or `idle` has passed.
    pub(super) fn wait(&mut self, doorbell: &StackDoorbell, idle: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Real(endpoint) => {
                let mut fds = [doorbell.as_fd(), endpoint.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                wait(&mut fds, idle)
            }
            Self::Virtual(poller) => {
                let idle = idle.map_or(u64::MAX, |idle| u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX));
                // Always pass the turn on, even if the doorbell has rung: the order of turns must
                // not depend on the time of the ring.
                poller.pass(idle).or_else(ended)
            }
        }
    }
}

/// The doorbell has been requested to end: not an error.
fn ended(_: Interrupted) -> io::Result<()> {
    Ok(())
}
