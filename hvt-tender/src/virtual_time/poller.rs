//! Poller of a guest in virtual time.

use std::io;
use std::sync::Arc;

use super::VirtualTime;
use super::schedule::{Seat, Wait};
use crate::cancel::CancelToken;
use crate::device::{Arrivals, Descriptor, Interrupted, Poller};

/// Poller of one guest in virtual time. When it is dropped, the guest leaves the schedule.
pub(crate) struct VirtualPoller {
    time: VirtualTime,
    number: u64,
    seat: Arc<Seat>,
    arrivals: Arc<[(u32, Arc<dyn Arrivals>)]>,
    is_host: bool,
}

impl VirtualPoller {
    /// Adds a guest to the schedule, with the arrivals of its network devices by handle. The guest
    /// must not execute instructions before [`begin`](Self::begin) returns.
    pub(crate) fn new(
        time: VirtualTime,
        arrivals: Vec<(u32, Arc<dyn Arrivals>)>,
        stop: CancelToken,
    ) -> io::Result<Self> {
        let this = Self::add(time, arrivals, stop, false)?;
        this.arrivals.iter().for_each(|(_, arrivals)| arrivals.set_in_guest(true));
        Ok(this)
    }

    /// Adds an in-memory host to the schedule. Unlike a guest, a host may wait forever, because its
    /// user can call it at any time.
    pub(crate) fn for_host(
        time: VirtualTime,
        arrivals: Vec<(u32, Arc<dyn Arrivals>)>,
        stop: CancelToken,
    ) -> io::Result<Self> {
        Self::add(time, arrivals, stop, true)
    }

    fn add(
        time: VirtualTime,
        arrivals: Vec<(u32, Arc<dyn Arrivals>)>,
        stop: CancelToken,
        is_host: bool,
    ) -> io::Result<Self> {
        let seat = Arc::new(Seat::new(stop)?);
        let number = time.lock().add(seat.clone(), is_host);
        Ok(Self { time, number, seat, arrivals: arrivals.into(), is_host })
    }

    /// Ends the turn, even if a device is ready, and waits for the next turn, which comes when
    /// `timeout` nanoseconds have passed or a frame arrives.
    pub(crate) fn pass(&mut self, timeout: u64) -> Result<(), Interrupted> {
        let until = self.time.nanos().saturating_add(timeout);
        let wait = Wait { until, arrivals: self.arrivals.clone() };
        self.time.lock().wait(self.number, wait, &self.time.world.now);
        self.seat.wait_for_turn()
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
        self.seat.wait_for_turn()
    }

    fn poll(&mut self, timeout: u64) -> Result<u64, Interrupted> {
        if self.seat.stopped() {
            return Err(Interrupted);
        }
        let ready = self.ready_set();
        if ready != 0 {
            return Ok(ready);
        }
        // A poll with timeout 0 takes a nanosecond. Otherwise a guest that polls in a loop would
        // stop the clock.
        self.pass(timeout.max(1))?;
        Ok(self.ready_set())
    }

    fn asleep(&self) -> bool {
        self.seat.asleep()
    }

    /// Returns the descriptor of this guest's turn. The descriptors of the other guests are not
    /// included.
    fn descriptors(&self) -> Vec<Descriptor> {
        vec![self.seat.descriptor()]
    }
}

impl Drop for VirtualPoller {
    fn drop(&mut self) {
        if !self.is_host {
            self.arrivals.iter().for_each(|(_, arrivals)| arrivals.set_in_guest(false));
        }
        self.time.lock().remove(self.number, &self.time.world.now);
    }
}
