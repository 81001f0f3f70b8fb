//! A monotonic clock, which needs no hypercall, and the wall clock.

#![expect(unsafe_code, reason = "hypercalls, and memory that the tender writes")]

use core::ops::Add;
use core::time::Duration;

use hvt_abi::hypercall::{Number, Walltime};

use crate::{arch, boot, hypercall};

/// A point in time of the monotonic clock. The clock advances with the CPU's cycle counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    /// Nanoseconds since the counter was 0.
    nanos: u64,
}

impl Instant {
    /// Returns the current time.
    #[must_use]
    pub fn now() -> Self {
        Self { nanos: boot::scale().nanos(arch::cycles()) }
    }

    /// Returns the instant `nanos` nanoseconds after the counter was 0.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { nanos }
    }

    /// Returns the number of nanoseconds since the counter was 0.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.nanos
    }

    /// Returns the time elapsed since this instant.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now().saturating_duration_since(self)
    }

    /// Returns the time from `earlier` to this instant, or zero if `earlier` is later.
    #[must_use]
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Returns the instant `duration` later. The result saturates at the latest representable
    /// instant.
    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self { nanos: self.nanos.saturating_add(nanos) }
    }
}

/// Returns the time since the Unix epoch, UTC. It takes one hypercall.
#[must_use]
pub fn wall() -> Duration {
    let mut argument = Walltime::default();
    // SAFETY: The argument contains no pointer to a buffer.
    unsafe { hypercall::call::<{ Number::Walltime as u32 }, _>(&mut argument) };
    Duration::from_nanos(argument.nsecs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_saturate() {
        let (early, late) = (Instant { nanos: 5 }, Instant { nanos: 8 });
        assert_eq!(late.saturating_duration_since(early), Duration::from_nanos(3));
        assert_eq!(early.saturating_duration_since(late), Duration::ZERO);
        assert_eq!(late + Duration::MAX, Instant { nanos: u64::MAX });
    }
}
