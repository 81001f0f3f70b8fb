//! Wall clocks: the host's clock, and a clock with a chosen start.

#![expect(unsafe_code, reason = "system calls on guest memory")]

use std::time::{Duration, Instant};

use super::Clock;

/// Wall clock of the host, in UTC.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    /// Returns the time in nanoseconds. A host clock before 1970 reads as 1970.
    fn now(&mut self) -> u64 {
        // The same with `SystemTime` and `Duration` takes 70 more instructions, of the 600 between
        // two entries of a guest that reads the time.
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes the structure on this stack. It cannot fail: the clock always
        // exists.
        unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
        // Wraps around in the year 2554.
        let seconds = now.tv_sec.max(0).cast_unsigned();
        seconds.wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned())
    }

    fn clone_handle(&self) -> Option<Box<dyn Clock + Send>> {
        Some(Box::new(*self))
    }
}

/// Wall clock with a chosen start, which advances with the host's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct StartingClock {
    shown: Duration,
    at: Instant,
}

impl StartingClock {
    /// Creates a clock that now reads `since_epoch` since the Unix epoch, UTC.
    #[must_use]
    pub fn at(since_epoch: Duration) -> Self {
        Self { shown: since_epoch, at: Instant::now() }
    }
}

impl Clock for StartingClock {
    fn now(&mut self) -> u64 {
        nanos(self.shown.saturating_add(self.at.elapsed()))
    }

    /// The copy shows the same time.
    fn clone_handle(&self) -> Option<Box<dyn Clock + Send>> {
        Some(Box::new(*self))
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
    fn starts_at_the_chosen_time() {
        const START: Duration = Duration::from_secs(86_400);
        let begin = Instant::now();
        let mut clock = StartingClock::at(START);
        let (first, second) = (clock.now(), clock.now());
        let latest = nanos(START + begin.elapsed());
        assert!(nanos(START) <= first && first <= second && second <= latest);
        assert_eq!(StartingClock::at(Duration::MAX).now(), u64::MAX);
    }
}
