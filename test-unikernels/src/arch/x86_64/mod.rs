//! x86_64.

pub mod access;
pub mod raw;

use core::arch::x86_64::_rdtsc;

/// The cycle counter.
pub fn cycles() -> u64 {
    // SAFETY: Every x86_64 CPU has it.
    unsafe { _rdtsc() }
}

/// Adds 3 to `sum`, and goes back to label 2 as long as there are `additions`.
macro_rules! add_three {
    () => {
        "add {sum}, 3\ndec {additions}\njnz 2b"
    };
}
