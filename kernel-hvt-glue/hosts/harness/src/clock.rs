//! The time stamp counter as a clock.

use core::arch::x86_64::_rdtsc;

use hvt_core::device::Clock;

/// See [`TscClock::scale`]. The error is below one part in 10^9 for any TSC slower than 4 GHz.
const SHIFT: u32 = 32;

/// The TSC, counting on from a moment whose date is known.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    /// Ticks of the TSC in a second.
    frequency: u64,
    /// Nanoseconds in a tick, times 2^[`SHIFT`]: a product is much cheaper than a quotient.
    scale: u64,
    /// TSC at the moment of `epoch`.
    base: u64,
    /// Nanoseconds from the Unix epoch to `base`.
    epoch: u64,
}

impl TscClock {
    /// A clock that counts `frequency` ticks of the TSC in a second (0 counts as 1), and showed `epoch` nanoseconds since
    /// the Unix epoch when the TSC was `base`.
    #[must_use]
    pub fn new(frequency: u64, base: u64, epoch: u64) -> Self {
        let frequency = frequency.max(1);
        let scale = (1_000_000_000_u128 << SHIFT) / u128::from(frequency);
        Self { frequency, scale: u64::try_from(scale).unwrap_or(u64::MAX), base, epoch }
    }

    /// Ticks of the TSC in a second.
    #[must_use]
    pub fn frequency(&self) -> u64 {
        self.frequency
    }

    /// Nanoseconds since the Unix epoch, UTC.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.at(tsc())
    }

    fn at(&self, tsc: u64) -> u64 {
        let elapsed = (u128::from(tsc.wrapping_sub(self.base)) * u128::from(self.scale)) >> SHIFT;
        self.epoch.wrapping_add(elapsed as u64)
    }
}

impl Clock for TscClock {
    fn now(&mut self) -> u64 {
        Self::now(self)
    }
}

/// The time stamp counter.
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: every 64-bit CPU has it.
    unsafe { _rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_nanoseconds_from_its_epoch() {
        let clock = TscClock::new(2_500_000_000, 1000, 7);
        assert_eq!(clock.at(1000), 7);
        // A day.
        let day = 86_400 * 2_500_000_000_u64;
        assert!(clock.at(1000 + day).abs_diff(7 + 86_400_000_000_000) < 86_400);
        // Nothing overflows, not even for a counter that is none.
        let _ = (TscClock::new(0, 0, 0).at(u64::MAX), TscClock::new(u64::MAX, 0, u64::MAX).at(u64::MAX));
    }
}
