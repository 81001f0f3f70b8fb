//! What a guest may use, the CPU must have switched on: SSE is on since the entry, XSAVE and AVX follow here.

use raw_cpuid::CpuId;
use x86_64::registers::{
    control::{Cr4, Cr4Flags},
    xcontrol::{XCr0, XCr0Flags},
};

/// Switches XSAVE on, with every state component of x87, SSE, AVX and AVX-512 that the CPU has.
pub(crate) fn enable_extended_state() {
    let cpuid = CpuId::new();
    if !cpuid.get_feature_info().is_some_and(|features| features.has_xsave()) {
        return;
    }
    // CPUID.0DH.0:EAX, the low half of XCR0 (SDM 13.3).
    let supported = u64::from(core::arch::x86_64::__cpuid_count(0xd, 0).eax);
    let wanted = XCr0Flags::X87
        | XCr0Flags::SSE
        | XCr0Flags::AVX
        | XCr0Flags::OPMASK
        | XCr0Flags::ZMM_HI256
        | XCr0Flags::HI16_ZMM;
    // SAFETY: the CPU has XSAVE, and each component that is switched on; nothing here depends on XCR0 as it was.
    unsafe {
        Cr4::update(|flags| flags.insert(Cr4Flags::OSXSAVE));
        XCr0::write(wanted & XCr0Flags::from_bits_truncate(supported));
    }
}
