//! Time: the TSC, measured against the kernel's clock.

use hvt_harness::clock::{TscClock, tsc};
use spin::Once;

use crate::sys::now;

static CLOCK: Once<TscClock> = Once::new();

/// How long the TSC is held against the kernel's clock: 50 ms. That one counts the interrupts of a timer, and what has
/// passed since.
const CALIBRATION: u64 = 50_000_000;

/// Measures the clock. The machine started `start` seconds after the Unix epoch.
pub(crate) fn init(start: u64) {
    CLOCK.call_once(|| {
        let (before, since) = edge();
        loop {
            let (after, until) = edge();
            let passed = until.saturating_sub(since);
            if passed >= CALIBRATION {
                let frequency = u128::from(after.wrapping_sub(before)) * 1_000_000_000 / u128::from(passed);
                return TscClock::new(frequency as u64, after, start * 1_000_000_000 + until);
            }
        }
    });
}

/// The machine's clock. Stands still before [`init`].
pub(crate) fn get() -> TscClock {
    CLOCK.get().copied().unwrap_or(TscClock::new(1, 0, 0))
}

/// The TSC and the kernel's clock, read together at the moment when the latter moves.
fn edge() -> (u64, u64) {
    let before = now();
    loop {
        let at = now();
        if at != before {
            return (tsc(), at);
        }
    }
}
