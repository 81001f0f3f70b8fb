//! Conversion of counter cycles to nanoseconds.

/// Converts cycles of the counter to nanoseconds with one multiplication and one shift. The
/// conversion has no state and thus no drift.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Nanoseconds per cycle multiplied by two to the power of `shift`.
    multiplier: u64,
    shift: u32,
}

impl Scale {
    /// Creates the scale for a counter with `frequency` Hz, or returns `None` if the frequency is
    /// 0.
    ///
    /// The multiplier has 64 significant bits. After ten years the error is therefore at most one
    /// nanosecond.
    pub(crate) const fn new(frequency: u64) -> Option<Self> {
        const NANOS: u128 = 1_000_000_000;
        if frequency == 0 {
            return None;
        }
        // The numerator has its top bit at position 127, so the quotient has at least 64 bits. Keep
        // the upper 64 bits.
        let numerator_shift = NANOS.leading_zeros();
        let quotient = (NANOS << numerator_shift) / frequency as u128;
        let excess = u64::BITS.saturating_sub(quotient.leading_zeros());
        Some(Self { multiplier: (quotient >> excess) as u64, shift: numerator_shift - excess })
    }

    /// Returns the number of nanoseconds in `cycles` cycles.
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
}
