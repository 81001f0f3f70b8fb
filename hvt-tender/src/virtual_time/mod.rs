//! A clock that the guests themselves drive: time moves when they have nothing to do.

mod poller;
mod schedule;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::schedule::{Schedule, Wait};
use crate::device::Clock;

pub(crate) use poller::VirtualPoller;

/// A clock in which guests live that moves on only when all of them wait: then it jumps to the moment at which the first
/// of them has something to do. A guest that sleeps for an hour is done in a millisecond.
///
/// Guests that share a clock run one at a time, in turns that change when the running one polls and nothing is ready. So
/// with devices in memory, and networks that share the clock, what they do depends on nothing but their own code: two
/// runs are the same, hypercall for hypercall. To that end start them under a [`hold`](Self::hold).
///
/// A guest that waits for ever ends with [`Outcome::Asleep`](crate::monitor::Outcome::Asleep) once nothing is left that could
/// wake it. It waits for ever if its poll ends in 146 years or later. Nothing is left if it has no network device, or all
/// other ports of its networks and the switches that make them have been dropped; or if every guest of the clock waits for
/// ever, and all ports of their networks belong to guests of the clock. Whatever may still act keeps such guests waiting: a
/// [`Hold`], a port or a switch in a test's hands, and a [host](crate::network::Host) in memory. A guest that polls for a
/// second again and again is never taken for one that waits for ever: give it a
/// [limit](crate::guest::Limits::wall_time).
///
/// A reading of the clock takes one nanosecond, so that a guest that waits for the clock to change does not wait for
/// ever. The guest's cycle counter is made from this clock, at 1 GHz; the process backend alone can do that.
#[derive(Clone, Debug)]
pub struct VirtualTime {
    world: Arc<World>,
}

#[derive(Debug)]
struct World {
    /// Nanoseconds since the start. Changes under the lock of the schedule only, or by the guest whose turn it is.
    now: AtomicU64,
    /// What the wall clock shows at the start, since the Unix epoch.
    epoch: Duration,
    schedule: Mutex<Schedule>,
}

/// What wall clocks show at first, unless they are told otherwise: 1 January 2025, 0:00 UTC.
const EPOCH: Duration = Duration::from_secs(1_735_689_600);

impl Default for VirtualTime {
    fn default() -> Self {
        Self::starting_at(EPOCH)
    }
}

impl VirtualTime {
    /// Frequency of the guests' cycle counter in Hz.
    pub(crate) const FREQUENCY: u64 = 1_000_000_000;

    /// A clock whose wall time starts on 1 January 2025.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A clock whose wall time starts `since_epoch` after the Unix epoch, UTC.
    #[must_use]
    pub fn starting_at(since_epoch: Duration) -> Self {
        let world = World { now: AtomicU64::new(0), epoch: since_epoch, schedule: Mutex::default() };
        Self { world: Arc::new(world) }
    }

    /// Time since its start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.nanos())
    }

    /// Keeps all guests from running, from their next poll or first instruction on, and time from moving, until the
    /// returned value is dropped.
    pub fn hold(&self) -> Hold {
        self.lock().held += 1;
        Hold { time: self.clone() }
    }

    /// Nanoseconds since its start.
    pub(crate) fn nanos(&self) -> u64 {
        self.world.now.load(Ordering::SeqCst)
    }

    /// A guest's reading of the clock, which takes a nanosecond.
    pub(crate) fn read(&self) -> u64 {
        self.world.now.fetch_add(1, Ordering::SeqCst).saturating_add(1)
    }

    /// Says that a frame has been sent: whoever waits may have something to do now.
    pub(crate) fn poke(&self) {
        self.lock().next_turn(&self.world.now);
    }

    /// Makes the guest whose turn it is wait for this long, while others have theirs. Where it is nobody's turn, time
    /// passes.
    pub(crate) fn sleep(&self, time: Duration) {
        let mut schedule = self.lock();
        let until = self.nanos().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        match schedule.running() {
            Some((number, seat)) => {
                schedule.wait(number, Wait { until, arrivals: Arc::new([]) }, &self.world.now);
                drop(schedule);
                // A guest that is to end ends at its next instruction, not in the middle of what it waits for.
                let _ = seat.wait_for_turn();
            }
            None => drop(self.world.now.fetch_max(until, Ordering::SeqCst)),
        }
    }

    /// What wall clocks show now, since the Unix epoch, to whom the look takes no time.
    pub(crate) fn wall_time(&self) -> Duration {
        self.world.epoch.saturating_add(self.elapsed())
    }

    /// The wall clock of a guest.
    pub(crate) fn wall_clock(&self) -> WallClock {
        WallClock(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.world.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a [`VirtualTime`] from moving while it lives.
#[derive(Debug)]
#[must_use = "time moves again as soon as this is dropped"]
pub struct Hold {
    time: VirtualTime,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut schedule = self.time.lock();
        schedule.held -= 1;
        schedule.next_turn(&self.time.world.now);
    }
}

/// The wall clock of a guest in virtual time.
pub(crate) struct WallClock(VirtualTime);

impl Clock for WallClock {
    fn now(&mut self) -> u64 {
        let epoch = u64::try_from(self.0.world.epoch.as_nanos()).unwrap_or(u64::MAX);
        epoch.saturating_add(self.0.read())
    }
}
