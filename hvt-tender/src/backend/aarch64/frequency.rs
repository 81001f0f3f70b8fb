//! aarch64: the virtual counter, whose frequency is in a register.

#![expect(unsafe_code, reason = "instructions that read the counter of the CPU")]

use std::arch::asm;
use std::io;

use crate::backend::BackendError;
use crate::backend::frequency::{Frequency, Source};

/// Search for the frequency of the counter. It measures nothing and takes no time here.
#[derive(Clone, Debug)]
pub struct Search(());

impl Search {
    /// Begins the search.
    #[must_use]
    pub fn begin() -> Self {
        Self(())
    }

    /// Returns the frequency.
    ///
    /// # Errors
    /// Returns [`BackendError`] if the firmware has not set it.
    pub fn finish(self) -> Result<Frequency, BackendError> {
        match frequency() {
            0 => Err(BackendError {
                what: "reading the frequency of the CPU's counter",
                source: io::Error::other("the firmware has not set CNTFRQ_EL0, and the guest's clock depends on it"),
            }),
            hz => Ok(Frequency { hz, source: Source::Cpu }),
        }
    }
}

/// CNTFRQ_EL0, in Hz (Arm ARM, D11.1.2).
fn frequency() -> u64 {
    let hz;
    // SAFETY: Linux permits user mode to read the register, or emulates it. The read has no other
    // effect.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) hz, options(pure, nomem, nostack, preserves_flags)) };
    hz
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn counter() -> u64 {
        let ticks;
        // SAFETY: as above; Linux's vDSO also reads this counter.
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
