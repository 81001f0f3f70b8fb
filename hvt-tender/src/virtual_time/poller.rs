//! How a guest sleeps in virtual time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::VirtualTime;
use super::schedule::Wait;
use crate::backend::Stop;
use crate::device::{Arrivals, Interrupted, Poller};

/// One guest's part in a virtual time. Dropping it takes the guest out.
pub(crate) struct VirtualPoller {
    time: VirtualTime,
    number: u64,
    turn: Arc<OwnedFd>,
    arrivals: Arc<[(u32, Arc<dyn Arrivals>)]>,
    stop: Stop,
}

impl VirtualPoller {
    /// Adds a guest with these devices, each with its handle. It may execute nothing before [`begin`](Self::begin).
    pub(crate) fn new(time: VirtualTime, arrivals: Vec<(u32, Arc<dyn Arrivals>)>, stop: Stop) -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let turn = Arc::new(OwnedFd::from(event));
        let number = time.lock().add(turn.clone());
        Ok(Self { time, number, turn, arrivals: arrivals.into(), stop })
    }

    /// Waits until it is this guest's turn.
    fn wait_for_turn(&self) -> Result<(), Interrupted> {
        let mut fds =
            [PollFd::new(self.stop.event(), PollFlags::POLLIN), PollFd::new(self.turn.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    // Nothing that a guest does leads here: the kernel has no memory left, say.
                    log::error!("cannot wait for a turn: {errno}");
                    return Err(Interrupted);
                }
                Ok(_) if fds[0].any().unwrap_or(true) => return Err(Interrupted),
                Ok(_) => match nix::unistd::read(&*self.turn, &mut [0; 8]) {
                    Ok(_) => return Ok(()),
                    Err(_) => continue,
                },
            }
        }
    }

    fn ready_set(&self) -> u64 {
        let now = self.time.nanos();
        let ready = self.arrivals.iter().filter(|(_, arrivals)| arrivals.next().is_some_and(|at| at <= now));
        ready.fold(0, |set, (handle, _)| set | 1u64.checked_shl(*handle).unwrap_or(0))
    }
}

impl Poller for VirtualPoller {
    fn begin(&mut self) -> Result<(), Interrupted> {
        self.time.poke();
        self.wait_for_turn()
    }

    fn poll(&mut self, timeout: u64) -> Result<u64, Interrupted> {
        if self.stop.requested() {
            return Err(Interrupted);
        }
        let ready = self.ready_set();
        if ready != 0 {
            return Ok(ready);
        }
        // A poll that finds nothing takes some time, or who polls for ever without sleeping would stand still.
        let until = self.time.nanos().saturating_add(timeout.max(1));
        let wait = Wait { until, arrivals: self.arrivals.clone() };
        self.time.lock().wait(self.number, wait, &self.time.world.now);
        self.wait_for_turn()?;
        Ok(self.ready_set())
    }
}

impl Drop for VirtualPoller {
    fn drop(&mut self) {
        self.time.lock().remove(self.number, &self.time.world.now);
    }
}
