//! aarch64.

pub mod access;
pub mod raw;

use core::arch::asm;

/// The cycle counter.
pub fn cycles() -> u64 {
    let count;
    // SAFETY: Every CPU has it.
    unsafe { asm!("isb", "mrs {}, CNTVCT_EL0", out(reg) count, options(nostack, preserves_flags)) }
    count
}

/// Adds 3 so many times to 0. In assembly, so that no compiler knows the sum.
pub fn sum_of_threes(additions: u64) -> u64 {
    let sum;
    // SAFETY: Registers only.
    unsafe {
        asm!(
            ".balign 32",
            "2:",
            "add {sum}, {sum}, #3",
            "subs {additions}, {additions}, #1",
            "b.ne 2b",
            sum = inout(reg) 0_u64 => sum,
            additions = inout(reg) additions => _,
            options(nomem, nostack),
        );
    }
    sum
}
