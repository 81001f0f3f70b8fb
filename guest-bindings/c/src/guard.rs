//! What code compiled with `-fstack-protector -mstack-protector-guard=global` refers to.

use core::sync::atomic::{AtomicUsize, Ordering};

use guest_bindings::abort;
use guest_bindings::clock::Instant;

use crate::arch;

/// The word that a function puts between its buffers and its return address. C reads it as an `uintptr_t`.
#[unsafe(no_mangle)]
static __stack_chk_guard: AtomicUsize = AtomicUsize::new(0x595e_9fbd_94fd_a700);

/// Chooses the guard of this run. Before any code that looks at it: such a function must not see it change.
pub(crate) fn set() {
    let random = arch::random().unwrap_or_else(|| {
        // Better than a constant: the low bits of the clock are hard to guess. Fibonacci hashing spreads them.
        Instant::now().as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize
    });
    // A zero as its first byte stops the functions on strings, which are what overflows buffers.
    __stack_chk_guard.store(random & !0xff, Ordering::Relaxed);
}

#[unsafe(no_mangle)]
extern "C" fn __stack_chk_fail() -> ! {
    abort("stack corruption detected")
}
