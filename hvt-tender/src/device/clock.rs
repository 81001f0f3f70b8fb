//! The host's wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Clock;

/// The wall clock of the host, in UTC.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    /// A host whose clock stands before 1970 says 1970.
    fn now(&mut self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
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
}
