//! Whose turn it is, and when.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::cancel::CancelToken;
use crate::device::{Arrivals, Descriptor, Interrupted, Senders, Uses};

/// Moments beyond this many nanoseconds, 146 years, never come. The largest deadline that a guest can express in signed
/// nanoseconds of its wall clock is one of them.
const NEVER: u64 = 1 << 62;

/// The guests of a clock.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    guests: BTreeMap<u64, Guest>,
    made: u64,
    /// Whose turn it is; that guest is not waiting.
    running: Option<u64>,
    /// Whose turn it was last.
    last: u64,
    /// How many keep the guests from running.
    pub(super) held: usize,
}

#[derive(Debug)]
struct Guest {
    seat: Arc<Seat>,
    /// Whether it is a host in memory, which its user may give something to do at any time.
    is_host: bool,
    waiting: Option<Wait>,
}

/// Where a guest waits for its turn.
#[derive(Debug)]
pub(super) struct Seat {
    /// Readable once it is this guest's turn.
    turn: OwnedFd,
    stop: CancelToken,
    /// Whether the guest was ended because nothing will ever wake it.
    asleep: AtomicBool,
}

impl Seat {
    /// A seat that is left as well when `stop` is requested.
    pub(super) fn new(stop: CancelToken) -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { turn: event.into(), stop, asleep: AtomicBool::new(false) })
    }

    /// Whether somebody asked the guest to end.
    pub(super) fn stopped(&self) -> bool {
        self.stop.requested()
    }

    /// Ends the guest, which nothing will ever wake, unless another thread has asked for its end.
    fn end_asleep(&self) {
        if !self.stop.requested() {
            self.asleep.store(true, Ordering::SeqCst);
            self.stop.request();
        }
    }

    /// Whether the guest was ended because nothing will ever wake it.
    pub(super) fn asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// Waits until it is this guest's turn.
    pub(super) fn wait_for_turn(&self) -> Result<(), Interrupted> {
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
                Ok(_) => match nix::unistd::read(&self.turn, &mut [0; 8]) {
                    Ok(_) => return Ok(()),
                    Err(_) => continue,
                },
            }
        }
    }

    /// What makes it readable, and takes that back.
    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.turn, Uses::READ | Uses::WRITE)
    }

    fn give_turn(&self) {
        // It fails only when the counter is full, and then the descriptor is readable as well.
        let _ = nix::unistd::write(&self.turn, &1u64.to_ne_bytes());
    }
}

/// What a guest waits for.
pub(super) struct Wait {
    /// A moment, in nanoseconds since the start.
    pub(super) until: u64,
    /// Frames, each with the handle of the device.
    pub(super) arrivals: Arc<[(u32, Arc<dyn Arrivals>)]>,
}

impl std::fmt::Debug for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wait").field("until", &self.until).finish_non_exhaustive()
    }
}

impl Wait {
    /// When it is over, as far as is known.
    fn over(&self) -> u64 {
        self.arrivals.iter().filter_map(|(_, arrivals)| arrivals.next()).fold(self.until, u64::min)
    }

    /// Senders that may end it before its time.
    fn senders(&self) -> Senders {
        self.arrivals.iter().map(|(_, arrivals)| arrivals.senders()).max().unwrap_or(Senders::None)
    }
}

impl Schedule {
    /// Adds a guest that is ready to run; returns its number.
    pub(super) fn add(&mut self, seat: Arc<Seat>, is_host: bool) -> u64 {
        self.made += 1;
        let waiting = Some(Wait { until: 0, arrivals: Arc::new([]) });
        self.guests.insert(self.made, Guest { seat, is_host, waiting });
        self.made
    }

    /// Number and seat of the guest whose turn it is.
    pub(super) fn running(&self) -> Option<(u64, Arc<Seat>)> {
        let number = self.running?;
        Some((number, self.guests.get(&number)?.seat.clone()))
    }

    /// Takes a guest out.
    pub(super) fn remove(&mut self, number: u64, now: &AtomicU64) {
        self.guests.remove(&number);
        self.running.take_if(|running| *running == number);
        self.next_turn(now);
    }

    /// Ends the turn of a guest, which waits from now on.
    pub(super) fn wait(&mut self, number: u64, wait: Wait, now: &AtomicU64) {
        if let Some(guest) = self.guests.get_mut(&number) {
            guest.waiting = Some(wait);
        }
        self.running.take_if(|running| *running == number);
        self.next_turn(now);
    }

    /// Gives the turn to the next guest that has something to do, at the first moment at which one has.
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

    /// Guests that wait for frames alone, or for nothing, and who may send them frames.
    fn sleepers(&self) -> impl Iterator<Item = (&Seat, Senders)> {
        let sleeps = |guest: &Guest| {
            let wait = guest.waiting.as_ref().filter(|wait| !guest.is_host && wait.over() >= NEVER)?;
            Some(wait.senders())
        };
        self.guests.values().filter_map(move |guest| Some((guest.seat.as_ref(), sleeps(guest)?)))
    }

    /// Ends the guests that wait for frames of no sender beyond `senders`, none of which will send any.
    fn end_sleepers(&self, senders: Senders) {
        self.sleepers().filter(|(_, their)| *their <= senders).for_each(|(seat, _)| seat.end_asleep());
    }
}
