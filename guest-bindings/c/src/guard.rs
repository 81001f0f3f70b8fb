//! Symbols for code compiled with `-fstack-protector -mstack-protector-guard=global`.

#![expect(unsafe_code, reason = "functions that C calls, with pointers")]

use core::sync::atomic::{AtomicUsize, Ordering};

use guest_bindings::abort;
use guest_bindings::clock::Instant;

use crate::arch;

/// Value that a function places between its buffers and its return address. C reads it as a
/// `uintptr_t`.
#[unsafe(no_mangle)]
static __stack_chk_guard: AtomicUsize = AtomicUsize::new(0x595e_9fbd_94fd_a700);

/// Sets the guard of this run. It must be called before any protected function, because a protected
/// function must not observe a change.
pub(crate) fn set() {
    let random = arch::random().unwrap_or_else(|| {
        // Fallback that is better than a constant: the low bits of the clock are hard to guess, and
        // Fibonacci hashing spreads them.
        Instant::now().as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize
    });
    // A zero in the first byte stops string functions, which are the usual cause of buffer
    // overflows.
    __stack_chk_guard.store(random & !0xff, Ordering::Relaxed);
}

#[unsafe(no_mangle)]
extern "C" fn __stack_chk_fail() -> ! {
    abort("stack corruption detected")
}
