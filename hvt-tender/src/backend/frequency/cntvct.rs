//! aarch64: the virtual counter, whose frequency stands in a register.

use std::arch::asm;
use std::io;

use super::{Frequency, Source};
use crate::backend::BackendError;

/// A search for the frequency of the counter. Here there is nothing to be measured, and it takes no time.
pub struct Search(());

impl Search {
    /// Begins.
    #[must_use]
    pub fn begin() -> Self {
        Self(())
    }

    /// The frequency.
    ///
    /// # Errors
    /// When the firmware has not said it.
    pub fn finish(self) -> Result<Frequency, BackendError> {
        match frequency() {
            0 => Err(BackendError {
                what: "asking the CPU for the frequency of its counter",
                source: io::Error::other("the firmware has not set CNTFRQ_EL0, and the guest's clock depends on it"),
            }),
            hz => Ok(Frequency { hz, source: Source::Cpu }),
        }
    }
}

/// CNTFRQ_EL0, in Hz (Arm ARM, D11.1.2).
fn frequency() -> u64 {
    let hz;
    // SAFETY: Linux lets programs read the register, or does it for them; it has no other effect.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) hz, options(pure, nomem, nostack, preserves_flags)) };
    hz
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn counter() -> u64 {
        let ticks;
        // SAFETY: as above; the vDSO of Linux reads the counter where clocks are asked for.
        unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags)) };
        ticks
    }

    #[test]
    fn the_counter_runs_at_the_frequency() {
        let Frequency { hz, source } = Search::begin().finish().unwrap();
        assert_eq!(source, Source::Cpu);
        let (start, before) = (Instant::now(), counter());
        let elapsed = loop {
            let elapsed = start.elapsed();
            if elapsed >= Duration::from_millis(50) {
                break elapsed;
            }
        };
        let measured = (counter() - before) as f64 / elapsed.as_secs_f64();
        assert!((measured / hz as f64 - 1.0).abs() < 0.02, "{measured} Hz, and not {hz} Hz");
    }
}
