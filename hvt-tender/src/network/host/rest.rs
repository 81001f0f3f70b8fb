//! How a host's thread waits for something to do.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use crate::cancel::CancelToken;
use crate::device::{Endpoint, Interrupted, Poller as _};
use crate::network::ip::{Stack, StackDoorbell, wait};
use crate::virtual_time::{VirtualPoller, VirtualTime};

/// How a host's thread waits: for real, or by taking turns with the guests of a virtual time.
pub(super) enum Rest {
    Real(Arc<Endpoint>),
    Virtual(VirtualPoller),
}

impl Rest {
    /// How the thread of this stack waits, what wakes it, and its virtual time if it lives in one.
    pub(super) fn new(stack: &Stack) -> io::Result<(Self, Arc<StackDoorbell>, Option<VirtualTime>)> {
        let Some((time, frames)) = stack.arrivals() else {
            return Ok((Self::Real(stack.endpoint()), StackDoorbell::new()?, None));
        };
        let stop = CancelToken::new()?;
        let doorbell = StackDoorbell::in_virtual_time(&time, &stop);
        let poller = VirtualPoller::for_host(time.clone(), vec![(0, frames), (1, doorbell.clone())], stop)?;
        Ok((Self::Virtual(poller), doorbell, Some(time)))
    }

    /// Waits until the thread may begin.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        match self {
            Self::Real(_) => Ok(()),
            Self::Virtual(poller) => poller.begin().or_else(ended),
        }
    }

    /// Waits until a frame has arrived, the bell has rung, or `idle` is over.
    pub(super) fn wait(&mut self, doorbell: &StackDoorbell, idle: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Real(endpoint) => {
                let mut fds = [doorbell.as_fd(), endpoint.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                wait(&mut fds, idle)
            }
            Self::Virtual(poller) => {
                let idle = idle.map_or(u64::MAX, |idle| u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX));
                // Never on at once: whose turn is next must not depend on when the host's user has rung.
                poller.pass(idle).or_else(ended)
            }
        }
    }
}

/// The bell says that it is over.
fn ended(_: Interrupted) -> io::Result<()> {
    Ok(())
}
