//! aarch64. Register names are from the Arm ARM (DDI 0487), chapter *AArch64 System Register
//! Descriptions*.

#![expect(unsafe_code, reason = "functions that C calls, with pointers")]

use core::arch::asm;

use super::ATTEMPTS;

/// Returns a random number from the CPU, or `None` if the CPU has no generator.
pub(crate) fn random() -> Option<usize> {
    let features: u64;
    // SAFETY: Reading has no effect.
    unsafe { asm!("mrs {}, ID_AA64ISAR0_EL1", out(reg) features, options(nomem, nostack, preserves_flags)) };
    // ID_AA64ISAR0_EL1.RNDR.
    if features >> 60 == 0 {
        return None;
    }
    // SAFETY: The CPU has the register.
    (0..ATTEMPTS).find_map(|_| unsafe { rndr() })
}

/// Reads RNDR. Returns `None` if the CPU had no number in time.
///
/// # Safety
///
/// The CPU must implement FEAT_RNG.
unsafe fn rndr() -> Option<usize> {
    let (number, failed): (usize, u64);
    // SAFETY: Guaranteed by the caller. PSTATE.Z reports failure. Assemblers accept only the
    // encoding of the register unless the feature is enabled.
    unsafe {
        asm!("mrs {}, S3_3_C2_C4_0", "cset {}, eq", out(reg) number, lateout(reg) failed, options(nomem, nostack));
    }
    (failed == 0).then_some(number)
}
