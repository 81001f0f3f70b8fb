//! Wall clocks: the host's, and one that starts when the test says.

use std::time::{Duration, Instant};

use super::Clock;

/// The wall clock of the host, in UTC.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    /// A host whose clock stands before 1970 says 1970.
    fn now(&mut self) -> u64 {
        // By way of `SystemTime` and `Duration` the same takes 70 instructions more, of the 600 between two entries of a
        // guest that asks for the time.
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes the structure on this stack. The clock cannot be missing, and nothing else makes the call fail.
        unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
        // In the year 2554 it begins again.
        let seconds = now.tv_sec.max(0).cast_unsigned();
        seconds.wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned())
    }
}

/// A wall clock that shows a chosen time when it is made, and goes on from there with the host's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct StartingClock {
    shown: Duration,
    at: Instant,
}

impl StartingClock {
    /// A clock that now shows `since_epoch` since the Unix epoch, UTC.
    #[must_use]
    pub fn at(since_epoch: Duration) -> Self {
        Self { shown: since_epoch, at: Instant::now() }
    }
}

impl Clock for StartingClock {
    fn now(&mut self) -> u64 {
        nanos(self.shown.saturating_add(self.at.elapsed()))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn agrees_with_the_host() {
        let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let before = seconds();
        let now = SystemClock.now() / 1_000_000_000;
        assert!((before..=seconds()).contains(&now));
    }

    #[test]
    fn starts_where_it_is_told_to() {
        const START: Duration = Duration::from_secs(86_400);
        let begin = Instant::now();
        let mut clock = StartingClock::at(START);
        let (first, second) = (clock.now(), clock.now());
        let latest = nanos(START + begin.elapsed());
        assert!(nanos(START) <= first && first <= second && second <= latest);
        assert_eq!(StartingClock::at(Duration::MAX).now(), u64::MAX);
    }
}
