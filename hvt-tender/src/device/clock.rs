//! Wall clocks: the host's, and one that starts when the test says.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Clock;

/// The wall clock of the host, in UTC.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    /// A host whose clock stands before 1970 says 1970.
    fn now(&mut self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        nanos(since)
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
