//! aarch64.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

pub mod access;
pub mod raw;

use core::arch::asm;

/// Reads the cycle counter.
pub fn cycles() -> u64 {
    let count;
    // SAFETY: Every CPU has the counter.
    unsafe { asm!("isb", "mrs {}, CNTVCT_EL0", out(reg) count, options(nostack, preserves_flags)) }
    count
}

/// Adds 3 to `sum`, and branches to label 2 while `additions` remain.
macro_rules! add_three {
    () => {
        "add {sum}, {sum}, #3\nsubs {additions}, {additions}, #1\nb.ne 2b"
    };
}
