//! Architecture-dependent code. Each module exports the same names, and names specific to its
//! architecture.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

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

/// Adds 3 to 0 `additions` times. It is written in assembly so that a compiler cannot compute the
/// sum.
pub fn sum_of_threes(additions: u64) -> u64 {
    let sum;
    // SAFETY: The code modifies only registers.
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
