//! Whose turn it is, and when.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::Arrivals;

/// What lies beyond this many nanoseconds, three centuries, never comes.
const NEVER: u64 = 1 << 63;

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
    /// Readable once it is this guest's turn.
    turn: Arc<OwnedFd>,
    waiting: Option<Wait>,
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
}

impl Schedule {
    /// Adds a guest that is ready to run; returns its number.
    pub(super) fn add(&mut self, turn: Arc<OwnedFd>) -> u64 {
        self.made += 1;
        let waiting = Some(Wait { until: 0, arrivals: Arc::new([]) });
        self.guests.insert(self.made, Guest { turn, waiting });
        self.made
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
        if self.running.is_some() || self.held > 0 {
            return;
        }
        let overs: Vec<(u64, u64)> =
            self.guests.iter().filter_map(|(number, guest)| Some((*number, guest.waiting.as_ref()?.over()))).collect();
        let Some(first) = overs.iter().map(|(_, over)| *over).min().filter(|over| *over < NEVER) else { return };
        let moment = now.fetch_max(first, Ordering::SeqCst).max(first);
        let ready = || overs.iter().filter(|(_, over)| *over <= moment).map(|(number, _)| *number);
        let Some(next) = ready().find(|number| *number > self.last).or_else(|| ready().next()) else { return };
        if let Some(guest) = self.guests.get_mut(&next) {
            guest.waiting = None;
            (self.running, self.last) = (Some(next), next);
            // It fails only when the counter is full, and then the descriptor is readable as well.
            let _ = nix::unistd::write(&*guest.turn, &1u64.to_ne_bytes());
        }
    }
}
