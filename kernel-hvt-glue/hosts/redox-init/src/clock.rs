//! Time: TSC frequency, measured against the kernel's clock.

use hvt_harness::clock::{TscClock, tsc};
use spin::Once;

use crate::sys::now;

static CLOCK: Once<TscClock> = Once::new();

/// Duration of the measurement: 50 ms. The kernel's clock counts timer interrupts, and the time
/// since the last one.
const CALIBRATION: u64 = 50_000_000;

/// Measures the clock. `start` is the time of the machine's start in seconds since the Unix epoch.
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

/// Returns the machine's clock. It stands still before [`init`].
pub(crate) fn get() -> TscClock {
    CLOCK.get().copied().unwrap_or(TscClock::new(1, 0, 0))
}

/// Reads the TSC and the kernel's clock together, right when the kernel's clock advances.
fn edge() -> (u64, u64) {
    let before = now();
    loop {
        let at = now();
        if at != before {
            return (tsc(), at);
        }
    }
}
