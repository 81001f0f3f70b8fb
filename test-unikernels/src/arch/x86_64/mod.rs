//! x86_64.

pub mod access;
pub mod raw;

use core::arch::asm;
use core::arch::x86_64::_rdtsc;

/// The cycle counter.
pub fn cycles() -> u64 {
    // SAFETY: Every x86_64 CPU has it.
    unsafe { _rdtsc() }
}

/// Adds 3 so many times to 0. In assembly, so that no compiler knows the sum.
pub fn sum_of_threes(additions: u64) -> u64 {
    let sum;
    // SAFETY: Registers only.
    unsafe {
        asm!(
            ".balign 32",
            "2:",
            "add {sum}, 3",
            "dec {additions}",
            "jnz 2b",
            sum = inout(reg) 0_u64 => sum,
            additions = inout(reg) additions => _,
            options(nomem, nostack),
        );
    }
    sum
}
