//! Scheduler of the guests in virtual time.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cancel::CancelToken;
use crate::device::{Arrivals, Descriptor, Interrupted, Senders, Uses};
use crate::sys::event::Event;

/// First instant, in nanoseconds (146 years), that counts as never. The largest deadline in signed
/// nanoseconds of a guest's wall clock is later.
const NEVER: u64 = 1 << 62;

/// Guests of a clock and their turns.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    guests: BTreeMap<u64, Guest>,
    made: u64,
    /// Number of the guest that runs now. That guest does not wait.
    running: Option<u64>,
    /// Number of the guest that had the last turn.
    last: u64,
    /// Number of holds, which prevent turns.
    pub(super) held: usize,
}

#[derive(Debug)]
struct Guest {
    seat: Arc<Seat>,
    /// Set for an in-memory host, whose user can call it at any time.
    is_host: bool,
    waiting: Option<Wait>,
}

/// Wait of a guest for its turn.
#[derive(Debug)]
pub(super) struct Seat {
    /// Eventfd that is readable once this guest has the turn.
    turn: Event,
    stop: CancelToken,
    /// Set if the guest was ended because nothing can wake it.
    asleep: AtomicBool,
}

impl Seat {
    /// Creates a seat. A request on `stop` ends its waits.
    pub(super) fn new(stop: CancelToken) -> io::Result<Self> {
        Ok(Self { turn: Event::new()?, stop, asleep: AtomicBool::new(false) })
    }

    /// Returns whether the guest has been requested to stop.
    pub(super) fn stopped(&self) -> bool {
        self.stop.requested()
    }

    /// Ends the guest because nothing can wake it, unless another thread has requested its stop
    /// already.
    fn end_asleep(&self) {
        if !self.stop.requested() {
            self.asleep.store(true, Ordering::SeqCst);
            self.stop.request();
        }
    }

    /// Returns whether the guest was ended because nothing can wake it.
    pub(super) fn asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// Waits for this guest's turn.
    pub(super) fn wait_for_turn(&self) -> Result<(), Interrupted> {
        let mut fds =
            [PollFd::new(self.stop.event(), PollFlags::POLLIN), PollFd::new(self.turn.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    // A guest cannot cause this error. A possible cause is lack of kernel memory.
                    log::error!("virtual time: cannot wait for a turn: {errno}");
                    return Err(Interrupted);
                }
                Ok(_) if fds[0].any().unwrap_or(true) => return Err(Interrupted),
                Ok(_) if self.turn.clear() => return Ok(()),
                Ok(_) => {}
            }
        }
    }

    /// Returns the descriptor of the turn, which is written to give the turn and read to take it.
    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.turn, Uses::READ | Uses::WRITE)
    }

    fn give_turn(&self) {
        self.turn.set();
    }
}

/// Events that a guest waits for.
pub(super) struct Wait {
    /// Deadline in nanoseconds since the start of the clock.
    pub(super) until: u64,
    /// Frame arrivals of the network devices, by handle.
    pub(super) arrivals: Arc<[(u32, Arc<dyn Arrivals>)]>,
}

impl std::fmt::Debug for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wait").field("until", &self.until).finish_non_exhaustive()
    }
}

impl Wait {
    /// Returns the end of the wait, given the frames sent so far.
    fn over(&self) -> u64 {
        self.arrivals.iter().filter_map(|(_, arrivals)| arrivals.next()).fold(self.until, u64::min)
    }

    /// Returns the kind of senders that may end the wait earlier.
    fn senders(&self) -> Senders {
        self.arrivals.iter().map(|(_, arrivals)| arrivals.senders()).max().unwrap_or(Senders::None)
    }
}

impl Schedule {
    /// Adds a guest that is ready to run and returns its number.
    pub(super) fn add(&mut self, seat: Arc<Seat>, is_host: bool) -> u64 {
        self.made += 1;
        let waiting = Some(Wait { until: 0, arrivals: Arc::new([]) });
        self.guests.insert(self.made, Guest { seat, is_host, waiting });
        self.made
    }

    /// Returns the number and the seat of the running guest.
    pub(super) fn running(&self) -> Option<(u64, Arc<Seat>)> {
        let number = self.running?;
        Some((number, self.guests.get(&number)?.seat.clone()))
    }

    /// Removes a guest.
    pub(super) fn remove(&mut self, number: u64, now: &AtomicU64) {
        self.guests.remove(&number);
        self.running.take_if(|running| *running == number);
        self.next_turn(now);
    }

    /// Ends the turn of a guest, which then waits for `wait`.
    pub(super) fn wait(&mut self, number: u64, wait: Wait, now: &AtomicU64) {
        if let Some(guest) = self.guests.get_mut(&number) {
            guest.waiting = Some(wait);
        }
        self.running.take_if(|running| *running == number);
        self.next_turn(now);
    }

    /// Advances the clock to the first instant at which a guest is ready, and gives the turn to the
    /// next ready guest in numerical order.
    pub(super) fn next_turn(&mut self, now: &AtomicU64) {
        self.end_sleepers(Senders::None);
        if self.running.is_some() || self.held > 0 {
            return;
        }
        let overs: Vec<(u64, u64)> =
            self.guests.iter().filter_map(|(number, guest)| Some((*number, guest.waiting.as_ref()?.over()))).collect();
        let Some(first) = overs.iter().map(|(_, over)| *over).min().filter(|over| *over < NEVER) else {
            if self.sleepers().all(|(_, senders)| senders < Senders::Anything) {
                self.end_sleepers(Senders::Guests);
            }
            return;
        };
        let moment = now.fetch_max(first, Ordering::SeqCst).max(first);
        let ready = || overs.iter().filter(|(_, over)| *over <= moment).map(|(number, _)| *number);
        let Some(next) = ready().find(|number| *number > self.last).or_else(|| ready().next()) else { return };
        if let Some(guest) = self.guests.get_mut(&next) {
            guest.waiting = None;
            (self.running, self.last) = (Some(next), next);
            guest.seat.give_turn();
        }
    }

    /// Returns the guests without a deadline and without a frame in transit, and the kind of
    /// senders that may wake each.
    fn sleepers(&self) -> impl Iterator<Item = (&Seat, Senders)> {
        let sleeps = |guest: &Guest| {
            let wait = guest.waiting.as_ref().filter(|wait| !guest.is_host && wait.over() >= NEVER)?;
            Some(wait.senders())
        };
        self.guests.values().filter_map(move |guest| Some((guest.seat.as_ref(), sleeps(guest)?)))
    }

    /// Ends the guests that only senders up to `senders` could wake. The caller ensures that these
    /// senders send no more frames.
    fn end_sleepers(&self, senders: Senders) {
        self.sleepers().filter(|(_, their)| *their <= senders).for_each(|(seat, _)| seat.end_asleep());
    }
}
