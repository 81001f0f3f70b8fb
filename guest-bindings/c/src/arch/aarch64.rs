//! aarch64. Registers are those of the Arm ARM (DDI 0487), chapter *AArch64 System Register Descriptions*.

use core::arch::asm;

use super::ATTEMPTS;

/// A random number of the CPU's, if it has them.
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

/// Reads RNDR, or `None` where the CPU had no number in time.
///
/// # Safety
///
/// The CPU has FEAT_RNG.
unsafe fn rndr() -> Option<usize> {
    let (number, failed): (usize, u64);
    // SAFETY: The caller's promise. PSTATE.Z tells of failure. Assemblers know the register by its encoding only, unless
    // they are told of the feature.
    unsafe {
        asm!("mrs {}, S3_3_C2_C4_0", "cset {}, eq", out(reg) number, lateout(reg) failed, options(nomem, nostack));
    }
    (failed == 0).then_some(number)
}
