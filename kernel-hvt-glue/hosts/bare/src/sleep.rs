//! Poller: puts a guest to sleep.

use hvt_core::device::{Interrupted, Poller};
use hvt_harness::{clock::tsc, suite::Wires};
use x86_64::instructions::hlt;

use crate::{clock, interrupts};

/// Waits for frames on wires, or until a timeout.
pub(crate) struct Sleeper {
    wires: Wires,
    /// Timer tick from which on the guest has timed out.
    deadline: u64,
}

impl Sleeper {
    /// Creates a poller that waits for frames on these wires, but not beyond the timer tick
    /// `deadline`.
    pub(crate) fn new(wires: Wires, deadline: u64) -> Self {
        Self { wires, deadline }
    }
}

impl Poller for Sleeper {
    fn poll(&mut self, timeout: u64) -> Result<u64, Interrupted> {
        let frequency = clock::get().frequency();
        let ticks = u128::from(timeout) * u128::from(frequency) / 1_000_000_000;
        let start = tsc();
        loop {
            let ready = self.wires.ready();
            let left = ticks.saturating_sub(tsc().wrapping_sub(start).into());
            if ready != 0 || left == 0 {
                return Ok(ready);
            }
            if interrupts::ticks() >= self.deadline {
                return Err(Interrupted);
            }
            // The timer wakes the CPU. It is too coarse for the last part of a sleep.
            if left > u128::from(frequency / u64::from(interrupts::TIMER_HZ)) {
                hlt();
            } else {
                core::hint::spin_loop();
            }
        }
    }
}
