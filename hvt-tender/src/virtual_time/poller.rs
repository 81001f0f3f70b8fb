//! How a guest sleeps in virtual time.

use std::io;
use std::sync::Arc;

use super::VirtualTime;
use super::schedule::{Seat, Wait};
use crate::cancel::CancelToken;
use crate::device::{Arrivals, Descriptor, Interrupted, Poller};

/// One guest's part in a virtual time. Dropping it takes the guest out.
pub(crate) struct VirtualPoller {
    time: VirtualTime,
    number: u64,
    seat: Arc<Seat>,
    arrivals: Arc<[(u32, Arc<dyn Arrivals>)]>,
    is_host: bool,
}

impl VirtualPoller {
    /// Adds a guest with these devices, each with its handle. It may execute nothing before [`begin`](Self::begin).
    pub(crate) fn new(
        time: VirtualTime,
        arrivals: Vec<(u32, Arc<dyn Arrivals>)>,
        stop: CancelToken,
    ) -> io::Result<Self> {
        let this = Self::add(time, arrivals, stop, false)?;
        this.arrivals.iter().for_each(|(_, arrivals)| arrivals.set_in_guest(true));
        Ok(this)
    }

    /// Adds a host in memory. It may wait for ever: its user may give it something to do at any time.
    #[cfg(feature = "smoltcp")]
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

    /// Ends the turn, even where there is something to do, and waits for the next: until `timeout` nanoseconds are over,
    /// or a frame arrives.
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
        // A poll that finds nothing takes some time, or who polls for ever without sleeping would stand still.
        self.pass(timeout.max(1))?;
        Ok(self.ready_set())
    }

    fn asleep(&self) -> bool {
        self.seat.asleep()
    }

    /// Its own. Those of other guests in the same time are not known here.
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
