//! Clocks and sleep.

#![expect(unsafe_code, reason = "functions that C calls, with pointers")]

use guest_bindings::clock::{self, Instant};
use guest_bindings::yield_until;

#[unsafe(no_mangle)]
extern "C" fn solo5_clock_monotonic() -> u64 {
    Instant::now().as_nanos()
}

#[unsafe(no_mangle)]
extern "C" fn solo5_clock_wall() -> u64 {
    // Nanoseconds since 1970 overflow 64 bits in 2554.
    clock::wall().as_nanos() as u64
}

/// # Safety
///
/// `ready_set` must be null or valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn solo5_yield(deadline: u64, ready_set: Option<&mut u64>) {
    let ready = yield_until(Instant::from_nanos(deadline));
    if let Some(ready_set) = ready_set {
        *ready_set = ready.bits();
    }
}
