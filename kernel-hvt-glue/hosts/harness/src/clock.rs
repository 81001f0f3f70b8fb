//! Clock based on the time stamp counter.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use core::arch::x86_64::_rdtsc;

use hvt_core::device::Clock;

/// See [`TscClock::scale`]. The error is below one part in 10^9 for any TSC slower than 4 GHz.
const SHIFT: u32 = 32;

/// Clock that counts TSC ticks since a moment with a known date.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    /// TSC ticks per second.
    frequency: u64,
    /// Nanoseconds per tick, times 2^[`SHIFT`]: a multiplication is much cheaper than a division.
    scale: u64,
    /// TSC at the time of `epoch`.
    base: u64,
    /// Nanoseconds from the Unix epoch to `base`.
    epoch: u64,
}

impl TscClock {
    /// Creates a clock with `frequency` TSC ticks per second (0 counts as 1). `epoch` is the time
    /// of the TSC value `base`, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn new(frequency: u64, base: u64, epoch: u64) -> Self {
        let frequency = frequency.max(1);
        let scale = (1_000_000_000_u128 << SHIFT) / u128::from(frequency);
        Self { frequency, scale: u64::try_from(scale).unwrap_or(u64::MAX), base, epoch }
    }

    /// Returns the TSC ticks per second.
    #[must_use]
    pub fn frequency(&self) -> u64 {
        self.frequency
    }

    /// Returns the nanoseconds since the Unix epoch, UTC.
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

/// Reads the time stamp counter.
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: every 64-bit CPU has the instruction.
    unsafe { _rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_nanoseconds_from_its_epoch() {
        let clock = TscClock::new(2_500_000_000, 1000, 7);
        assert_eq!(clock.at(1000), 7);
        // One day.
        let day = 86_400 * 2_500_000_000_u64;
        assert!(clock.at(1000 + day).abs_diff(7 + 86_400_000_000_000) < 86_400);
        // No overflow, even for an invalid frequency.
        let _ = (TscClock::new(0, 0, 0).at(u64::MAX), TscClock::new(u64::MAX, 0, u64::MAX).at(u64::MAX));
    }
}
