//! CPU features that control registers and XCR0 enable. The guest sees them in CPUID, because a
//! process cannot trap CPUID on every CPU. Therefore CR4 and XCR0 must match CPUID.

#![expect(unsafe_code, reason = "system calls, and memory that the process of the guest writes")]

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

use hvt_abi::x86_64::cpuid::{OSXSAVE, XSAVE};

/// Bits of CR4 (SDM volume 3, 2.5) and XCR0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// Bits of CR4 for features of this CPU, beyond the bits that every CPU has.
    pub(super) cr4: u64,
    /// Bits of CR4 that are set in this process and visible in CPUID: OSXSAVE, PKE.
    pub(super) on: u64,
    /// Bits of CR4 that are set in this process and not visible in CPUID: FSGSBASE.
    pub(super) usable: u64,
    /// XSAVE components of the CPU.
    pub(super) components: u64,
    /// XCR0 in this process.
    pub(super) xcr0: u64,
}

impl Features {
    /// Features of this CPU. In a virtual machine each CPUID takes microseconds, so that they are
    /// read only once, for the first guest that needs them.
    pub(super) fn of_this_cpu() -> &'static Self {
        static FEATURES: OnceLock<Features> = OnceLock::new();
        FEATURES.get_or_init(|| {
            let basic = __cpuid(1);
            let last = __cpuid(0).eax;
            let extended = (last >= 7).then(|| __cpuid_count(7, 0));
            let extended = extended.map_or((0, 0, 0), |leaf| (leaf.ebx, leaf.ecx, leaf.edx));
            let xsave = if basic.ecx & OSXSAVE != 0 { Some((__cpuid_count(0xd, 0), xgetbv())) } else { None };
            let components = xsave.map_or(0, |(leaf, _)| u64::from(leaf.edx) << 32 | u64::from(leaf.eax));
            // SAFETY: getauxval has no preconditions.
            let hwcap2 = unsafe { libc::getauxval(libc::AT_HWCAP2) };
            Self::new(basic.ecx, extended, hwcap2 & HWCAP2_FSGSBASE != 0, components, xsave.map_or(0, |(_, xcr0)| xcr0))
        })
    }

    /// Computes the features from leaf 1 ECX, leaf 7.0 EBX, ECX and EDX, and from the permission of
    /// user mode to write the bases of FS and GS.
    fn new(basic: u32, (ebx, ecx, edx): (u32, u32, u32), bases: bool, components: u64, xcr0: u64) -> Self {
        let bit = |value: u32, from: u32, to: u32| u64::from(value >> from & 1) << to;
        let cr4 = bit(basic, XSAVE.trailing_zeros(), 18)
            | bit(basic, 17, 17) // PCIDE
            | bit(ebx, 0, 16) // FSGSBASE
            | bit(ebx, 7, 20) // SMEP
            | bit(ebx, 20, 21) // SMAP
            | bit(ecx, 2, 11) // UMIP
            | bit(ecx, 3, 22) // PKE
            | bit(ecx, 7, 23) // CET, by shadow stacks
            | bit(edx, 20, 23) // CET, by branch tracking
            | bit(ecx, 23, 19) // KL
            | bit(ecx, 31, 24) // PKS
            | bit(edx, 5, 25); // UINTR
        let on = bit(basic, OSXSAVE.trailing_zeros(), 18) | bit(ecx, 4, 22);
        let usable = if bases { bit(ebx, 0, 16) } else { 0 };
        Self { cr4, on, usable, components, xcr0 }
    }
}

/// HWCAP2 bit: user mode may run WRFSBASE (`arch/x86/include/uapi/asm/hwcap2.h`).
pub(super) const HWCAP2_FSGSBASE: u64 = 1 << 1;

/// Reads XCR0. The caller has checked CPUID.1:ECX.OSXSAVE.
fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the instruction exists if OSXSAVE is set, and reads only XCR0.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}
