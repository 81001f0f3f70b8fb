//! x86_64.

#![expect(unsafe_code, reason = "functions that C calls, with pointers")]

use core::arch::x86_64::{__cpuid, _rdrand64_step};

use super::ATTEMPTS;

/// Returns a random number from the CPU, or `None` if the CPU has no generator.
pub(crate) fn random() -> Option<usize> {
    /// CPUID.01H:ECX.RDRAND.
    const RDRAND: u32 = 1 << 30;

    #[target_feature(enable = "rdrand")]
    fn number() -> Option<u64> {
        let mut number = 0;
        (0..ATTEMPTS).any(|_| _rdrand64_step(&mut number) == 1).then_some(number)
    }

    if __cpuid(1).ecx & RDRAND == 0 {
        return None;
    }
    // SAFETY: The CPU has the instruction.
    unsafe { number() }.map(|number| number as usize)
}
