//! Clocks: a monotonic one that costs no hypercall, and the wall clock.

use core::ops::Add;
use core::time::Duration;

use hvt_abi::hypercall::{Number, Walltime};

use crate::{arch, boot, hypercall};

/// A point in time of the monotonic clock, which runs while the CPU's cycle counter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    /// Nanoseconds since the counter was 0.
    nanos: u64,
}

impl Instant {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self { nanos: boot::scale().nanos(arch::cycles()) }
    }

    /// That many nanoseconds since the counter was 0.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { nanos }
    }

    /// Nanoseconds since the counter was 0.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.nanos
    }

    /// Time since then.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now().saturating_duration_since(self)
    }

    /// Time from `earlier` to this one; zero where it is not earlier.
    #[must_use]
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// The instant `duration` later; the end of time where that is beyond it.
    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self { nanos: self.nanos.saturating_add(nanos) }
    }
}

/// Time since the Unix epoch, UTC. Costs a hypercall.
#[must_use]
pub fn wall() -> Duration {
    let mut argument = Walltime::default();
    // SAFETY: The argument names no buffer.
    unsafe { hypercall::call(Number::Walltime, &mut argument) };
    Duration::from_nanos(argument.nsecs)
}

/// Turns cycles of the counter into nanoseconds: one multiplication, one shift, no state and so no drift.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Nanoseconds per cycle times two to the power of `shift`.
    multiplier: u64,
    shift: u32,
}

impl Scale {
    /// For a counter of `frequency` Hz, or `None` where that is 0.
    ///
    /// The multiplier has 64 significant bits, so that ten years of cycles are off by a nanosecond at most.
    pub(crate) const fn new(frequency: u64) -> Option<Self> {
        const NANOS: u128 = 1_000_000_000;
        if frequency == 0 {
            return None;
        }
        // The quotient of a numerator with its top bit at 127 has at least 64 bits; keep the upper 64 of them.
        let numerator_shift = NANOS.leading_zeros();
        let quotient = (NANOS << numerator_shift) / frequency as u128;
        let excess = u64::BITS.saturating_sub(quotient.leading_zeros());
        Some(Self { multiplier: (quotient >> excess) as u64, shift: numerator_shift - excess })
    }

    /// Nanoseconds in so many cycles.
    pub(crate) const fn nanos(self, cycles: u64) -> u64 {
        ((cycles as u128 * self.multiplier as u128) >> self.shift) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_is_exact_to_the_nanosecond() {
        for frequency in
            [1, 19_200_000, 24_000_000, 999_999_999, 1_000_000_000, 1_000_000_001, 2_899_886_000, 5_300_000_000]
        {
            let scale = Scale::new(frequency).unwrap();
            for cycles in [0, 1, 2, frequency - 1, frequency, 86_400 * frequency + 1, 315_576_000 * frequency + 7] {
                let exact = u128::from(cycles) * 1_000_000_000 / u128::from(frequency);
                let off = exact - u128::from(scale.nanos(cycles));
                assert!(off <= 1, "{cycles} cycles at {frequency} Hz are {off} ns off");
            }
        }
    }

    #[test]
    fn scale_never_runs_backwards() {
        let scale = Scale::new(2_899_886_000).unwrap();
        let start = u64::MAX / 16;
        assert!((start..start + 10_000).map(|cycles| scale.nanos(cycles)).is_sorted());
    }

    #[test]
    fn no_frequency_no_scale() {
        assert!(Scale::new(0).is_none());
    }

    #[test]
    fn instants_saturate() {
        let (early, late) = (Instant { nanos: 5 }, Instant { nanos: 8 });
        assert_eq!(late.saturating_duration_since(early), Duration::from_nanos(3));
        assert_eq!(early.saturating_duration_since(late), Duration::ZERO);
        assert_eq!(late + Duration::MAX, Instant { nanos: u64::MAX });
    }
}
