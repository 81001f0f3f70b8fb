//! Virtual clock that advances only while all of its guests wait.

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

/// Virtual clock of one or more guests. It advances only while all guests wait, and then jumps to
/// the next event of any guest. A guest that sleeps for an hour finishes in a millisecond of real
/// time.
///
/// A clone refers to the same clock.
///
/// # Determinism
///
/// Guests that share a clock run one at a time. The turn passes to the next guest when the running
/// guest polls and no device is ready. With in-memory devices, and networks that share the clock,
/// the guests' behavior depends only on their code: two runs make the same hypercalls in the same
/// order. Start such guests under a [`hold`](Self::hold).
///
/// A reading of the clock advances it by one nanosecond, so that a guest that spins until the clock
/// changes makes progress. The guest's cycle counter follows this clock at 1 GHz. Only the process
/// backend supports virtual time.
///
/// # Guests that wait forever
///
/// A guest waits forever if its poll ends in 146 years or later. Such a guest ends with
/// [`Outcome::Asleep`](crate::monitor::Outcome::Asleep) once nothing can wake it, which is the case
///
/// - if it has no network device, or if all other ports of its networks and the switches that
///   create them have been dropped, or
/// - if every guest of the clock waits forever, and all ports of their networks belong to guests of
///   the clock.
///
/// A [`Hold`], a port or a switch held by a test, and an in-memory [host](crate::network::Host) may
/// still act and keep such guests waiting. A guest that polls repeatedly with a finite timeout does
/// not count as waiting forever: set a [wall-time limit](crate::Limits::wall_time).
#[derive(Clone, Debug)]
pub struct VirtualTime {
    world: Arc<World>,
}

#[derive(Debug)]
struct World {
    /// Nanoseconds since the start. Changed only under the lock of the schedule, or by the running
    /// guest.
    now: AtomicU64,
    /// Wall-clock time at the start, since the Unix epoch.
    epoch: Duration,
    schedule: Mutex<Schedule>,
}

/// Default wall-clock time at the start: 1 January 2025, 00:00 UTC.
const EPOCH: Duration = Duration::from_secs(1_735_689_600);

impl Default for VirtualTime {
    fn default() -> Self {
        Self::starting_at(EPOCH)
    }
}

impl VirtualTime {
    /// Frequency of the guests' cycle counter in Hz.
    pub(crate) const FREQUENCY: u64 = 1_000_000_000;

    /// Creates a clock whose wall-clock time starts on 1 January 2025, 00:00 UTC.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a clock whose wall-clock time starts `since_epoch` after the Unix epoch, UTC.
    #[must_use]
    pub fn starting_at(since_epoch: Duration) -> Self {
        let world = World { now: AtomicU64::new(0), epoch: since_epoch, schedule: Mutex::default() };
        Self { world: Arc::new(world) }
    }

    /// Returns the virtual time since the start of the clock.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.nanos())
    }

    /// Stops the clock and the guests until the returned value is dropped. A running guest stops at
    /// its next poll; a guest that has not started yet does not execute its first instruction.
    pub fn hold(&self) -> Hold {
        self.lock().held += 1;
        Hold { time: self.clone() }
    }

    /// Returns the nanoseconds since the start of the clock.
    pub(crate) fn nanos(&self) -> u64 {
        self.world.now.load(Ordering::SeqCst)
    }

    /// Reads the clock for a guest, which advances it by one nanosecond.
    pub(crate) fn read(&self) -> u64 {
        self.world.now.fetch_add(1, Ordering::SeqCst).saturating_add(1)
    }

    /// Reschedules the guests after a frame was sent or a sender was dropped: a waiting guest may
    /// be ready now.
    pub(crate) fn poke(&self) {
        self.lock().next_turn(&self.world.now);
    }

    /// Makes the running guest wait for `time` while other guests have their turns. If no guest is
    /// running, the clock advances by `time`.
    pub(crate) fn sleep(&self, time: Duration) {
        let mut schedule = self.lock();
        let until = self.nanos().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        match schedule.running() {
            Some((number, seat)) => {
                schedule.wait(number, Wait { until, arrivals: Arc::new([]) }, &self.world.now);
                drop(schedule);
                // A guest that has been requested to stop ends at its next instruction, not in this
                // wait.
                let _ = seat.wait_for_turn();
            }
            None => drop(self.world.now.fetch_max(until, Ordering::SeqCst)),
        }
    }

    /// Returns the wall-clock time since the Unix epoch, without advancing the clock.
    pub(crate) fn wall_time(&self) -> Duration {
        self.world.epoch.saturating_add(self.elapsed())
    }

    /// Returns the wall clock of a guest.
    pub(crate) fn wall_clock(&self) -> WallClock {
        WallClock(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.world.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Guard that stops a [`VirtualTime`] and its guests until it is dropped: see
/// [`VirtualTime::hold`].
#[derive(Debug)]
#[must_use = "the clock runs again as soon as the hold is dropped"]
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

/// Wall clock of a guest in virtual time.
pub(crate) struct WallClock(VirtualTime);

impl Clock for WallClock {
    fn now(&mut self) -> u64 {
        let epoch = u64::try_from(self.0.world.epoch.as_nanos()).unwrap_or(u64::MAX);
        epoch.saturating_add(self.0.read())
    }
}
