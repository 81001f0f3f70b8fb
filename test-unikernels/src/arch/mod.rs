//! What depends on the architecture. Each module offers the same names, and what only one architecture has.

#[cfg(target_arch = "aarch64")]
#[macro_use]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "x86_64")]
#[macro_use]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

/// Adds 3 so many times to 0. In assembly, so that no compiler knows the sum.
pub fn sum_of_threes(additions: u64) -> u64 {
    let sum;
    // SAFETY: Registers only.
    unsafe {
        core::arch::asm!(
            ".balign 32",
            "2:",
            add_three!(),
            sum = inout(reg) 0_u64 => sum,
            additions = inout(reg) additions => _,
            options(nomem, nostack),
        );
    }
    sum
}
