//! CPUID as seen by a guest: the CPU's features for programs ([`hvt_abi::x86_64::cpuid`]), and a
//! single CPU.

use hvt_abi::x86_64::cpuid::{
    AMD_AVX_ECX, AMD_ECX, AMD_EDX, AVX_ECX, AVX_EXTENDED_ECX, AVX_VNNI, AVX2, AVX512_BF16, AVX512_EBX, AVX512_ECX,
    CLZERO, EXTENDED_EBX, EXTENDED_ECX, EXTENDED_EDX, FEATURES_ECX, FEATURES_EDX, FIRST_EXTENDED, INVARIANT_TSC,
    LAST_BASIC, LAST_EXTENDED, OSXSAVE, XSAVE, XSAVE_FEATURES,
};
use raw_cpuid::{CpuId, CpuIdReader, CpuIdResult};

use super::fpu::area_size;

/// Executes CPUID on the physical CPU.
pub(crate) fn native(leaf: u32, subleaf: u32) -> CpuIdResult {
    raw_cpuid::cpuid!(leaf, subleaf)
}

/// Returns the number of bits in a physical address (8000_0008h). Guest-physical addresses have the
/// same size.
pub(crate) fn physical_address_bits<R: CpuIdReader>(id: &CpuId<R>) -> u32 {
    id.get_processor_capacity_feature_info().map_or(36, |info| info.physical_address_bits().into())
}

/// Guest state that CPUID reflects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Offered XSAVE components. 0 hides XSAVE and all features that depend on it.
    pub(crate) components: u64,
    /// The guest's XCR0.
    pub(crate) xcr0: u64,
    /// The guest's CR4.OSXSAVE.
    pub(crate) osxsave: bool,
}

impl View {
    fn offers(&self, components: u64) -> bool {
        self.components & components == components
    }

    /// Returns `value` without the bits whose components are not offered.
    fn without(&self, value: u32, avx: u32, avx512: u32) -> u32 {
        use super::fpu::component;
        let denied_avx = if self.offers(component::AVX) { 0 } else { avx };
        let denied_avx512 = if self.offers(component::AVX512) { 0 } else { avx512 };
        value & !(denied_avx | denied_avx512)
    }
}

/// Returns the result of CPUID for a guest.
pub(crate) fn answer(cpuid: &impl CpuIdReader, leaf: u32, subleaf: u32, view: View) -> CpuIdResult {
    const NONE: CpuIdResult = CpuIdResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    let last = match leaf {
        0..=LAST_BASIC => cpuid.cpuid1(0).eax.min(LAST_BASIC),
        FIRST_EXTENDED..=LAST_EXTENDED => cpuid.cpuid1(FIRST_EXTENDED).eax.min(LAST_EXTENDED),
        _ => return NONE,
    };
    if leaf > last {
        return NONE;
    }
    let raw = cpuid.cpuid2(leaf, subleaf);
    match leaf {
        0 | FIRST_EXTENDED => CpuIdResult { eax: last, ..raw },
        1 => {
            let xsave = if view.components == 0 { XSAVE | AVX_ECX } else { 0 };
            let osxsave = if view.osxsave { OSXSAVE } else { 0 };
            CpuIdResult {
                eax: raw.eax,
                // Brand index and CLFLUSH size; one logical processor with number 0.
                ebx: raw.ebx & 0xffff | 1 << 16,
                ecx: view.without(raw.ecx & FEATURES_ECX & !xsave, AVX_ECX, 0) | osxsave,
                edx: raw.edx & FEATURES_EDX,
            }
        }
        // Caches and their geometry, without the number of CPUs that share them.
        4 => CpuIdResult { eax: raw.eax & 0x3fff, ..raw },
        7 if subleaf == 0 => CpuIdResult {
            eax: raw.eax.min(1),
            ebx: view.without(raw.ebx & EXTENDED_EBX, AVX2, AVX512_EBX),
            ecx: view.without(raw.ecx & EXTENDED_ECX, AVX_EXTENDED_ECX, AVX512_ECX),
            edx: raw.edx & EXTENDED_EDX,
        },
        7 if subleaf == 1 => {
            CpuIdResult { eax: view.without(raw.eax & (AVX_VNNI | AVX512_BF16), AVX_VNNI, AVX512_BF16), ..NONE }
        }
        0xd => xsave_leaf(cpuid, subleaf, raw, view),
        // Cache descriptors; TSC and processor frequency; brand string; AMD's caches.
        2 | 0x15 | 0x16 | 0x8000_0002..=0x8000_0006 => raw,
        0x8000_0001 => {
            let ecx = view.without(raw.ecx & AMD_ECX, AMD_AVX_ECX, 0);
            CpuIdResult { eax: raw.eax, ebx: 0, ecx, edx: raw.edx & AMD_EDX }
        }
        0x8000_0007 => CpuIdResult { edx: raw.edx & INVARIANT_TSC, ..NONE },
        LAST_EXTENDED => CpuIdResult { eax: raw.eax, ebx: raw.ebx & CLZERO, ..NONE },
        _ => NONE,
    }
}

/// Leaf 0Dh (SDM volume 1, 13.2).
fn xsave_leaf(cpuid: &impl CpuIdReader, subleaf: u32, raw: CpuIdResult, view: View) -> CpuIdResult {
    let size = |components| u32::try_from(area_size(cpuid, components)).unwrap_or(u32::MAX);
    let none = CpuIdResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    match subleaf {
        _ if view.components == 0 => none,
        0 => CpuIdResult {
            eax: view.components as u32,
            ebx: size(view.xcr0),
            ecx: size(view.components),
            edx: (view.components >> 32) as u32,
        },
        1 => CpuIdResult { eax: raw.eax & XSAVE_FEATURES, ..none },
        2..63 if view.components >> subleaf & 1 == 1 => raw,
        _ => none,
    }
}

/// Returns the CR4 bits of the features that CPUID shows, by leaf, register and bit.
pub(crate) fn cr4_features(cpuid: &impl CpuIdReader, components: u64) -> u64 {
    let view = View { components, xcr0: 1, osxsave: false };
    let basic = answer(cpuid, 1, 0, view);
    let extended = answer(cpuid, 7, 0, view);
    let bit = |value: u32, from: u32, to: u32| u64::from(value >> from & 1) << to;
    bit(basic.ecx, 26, 18)          // OSXSAVE
        | bit(extended.ebx, 0, 16)  // FSGSBASE
        | bit(extended.ebx, 7, 20)  // SMEP
        | bit(extended.ebx, 20, 21) // SMAP
        | bit(extended.ecx, 2, 11) // UMIP
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVERYTHING: CpuIdResult = CpuIdResult { eax: !0, ebx: !0, ecx: !0, edx: !0 };
    const AVX512: View = View { components: 0xe7, xcr0: 0x7, osxsave: true };

    /// A CPU with all features, including undefined ones.
    fn all(leaf: u32, subleaf: u32) -> CpuIdResult {
        if leaf == 0xd && subleaf >= 2 {
            return CpuIdResult { eax: 64, ebx: 576 + 64 * subleaf, ecx: 0, edx: 0 };
        }
        EVERYTHING
    }

    #[test]
    fn virtualization_and_hypervisors_are_hidden() {
        let one = answer(&all, 1, 0, AVX512);
        assert_eq!(one.ecx & (1 << 5 | 1 << 31), 0, "VMX, hypervisor");
        assert_eq!(answer(&all, 0x8000_0001, 0, AVX512).ecx & 1 << 2, 0, "SVM");
        for leaf in [0x4000_0000, 0x4000_0001, 0x8000_000a, 0x8000_001f, 0xa, 0xb, 0x12, 0x14, 0x17] {
            let CpuIdResult { eax, ebx, ecx, edx } = answer(&all, leaf, 0, AVX512);
            assert_eq!((eax, ebx, ecx, edx), (0, 0, 0, 0), "leaf {leaf:#x}");
        }
    }

    #[test]
    fn the_largest_leaves_are_bounded() {
        assert_eq!(answer(&all, 0, 0, AVX512).eax, 0x16);
        assert_eq!(answer(&all, 0x8000_0000, 0, AVX512).eax, 0x8000_0008);
        let old = |leaf, _| CpuIdResult { eax: if leaf == 0 { 0xd } else { 0x8000_0004 }, ..EVERYTHING };
        assert_eq!(answer(&old, 0, 0, AVX512).eax, 0xd);
        assert_eq!(answer(&old, 0x15, 0, AVX512).ebx, 0);
        assert_eq!(answer(&old, 0x8000_0008, 0, AVX512).eax, 0);
    }

    #[test]
    fn features_follow_the_components_on_offer() {
        assert_eq!(answer(&all, 1, 0, AVX512).ecx & (XSAVE | OSXSAVE | AVX_ECX), XSAVE | OSXSAVE | AVX_ECX);
        assert_ne!(answer(&all, 7, 0, AVX512).ebx & AVX512_EBX, 0);

        let avx = View { components: 0x7, ..AVX512 };
        assert_eq!(answer(&all, 7, 0, avx).ebx & (AVX512_EBX | AVX2), AVX2);
        assert_eq!(answer(&all, 7, 1, avx).eax, AVX_VNNI);

        let fxsave = View { components: 0, xcr0: 0, osxsave: false };
        assert_eq!(answer(&all, 1, 0, fxsave).ecx & (XSAVE | OSXSAVE | AVX_ECX), 0);
        assert_eq!(answer(&all, 7, 0, fxsave).ebx & AVX2, 0);
        assert_eq!(answer(&all, 0xd, 0, fxsave).ecx, 0);
        assert_eq!(cr4_features(&all, 0), 1 << 11 | 1 << 16 | 1 << 20 | 1 << 21);
        assert_eq!(cr4_features(&all, 3), 1 << 11 | 1 << 16 | 1 << 18 | 1 << 20 | 1 << 21);
    }

    #[test]
    fn the_xsave_area_is_as_large_as_the_components_it_holds() {
        let zero = answer(&all, 0xd, 0, AVX512);
        assert_eq!((zero.eax, zero.ebx, zero.ecx, zero.edx), (0xe7, 576 + 128 + 64, 576 + 448 + 64, 0));
        assert_eq!(answer(&all, 0xd, 5, AVX512).ebx, 576 + 320);
        assert_eq!(answer(&all, 0xd, 9, AVX512).eax, 0, "PKRU");
        assert_eq!(answer(&all, 0xd, 1, AVX512).eax, XSAVE_FEATURES);
    }

    proptest! {
        #[test]
        fn a_guest_sees_one_cpu_with_number_0(leaf in 0..0x20_u32, subleaf in 0..8_u32) {
            let answer = answer(&all, leaf, subleaf, AVX512);
            match leaf {
                1 => prop_assert_eq!(answer.ebx >> 16, 1),
                4 => prop_assert_eq!(answer.eax >> 14, 0),
                0xb => prop_assert_eq!(answer.edx, 0),
                _ => {}
            }
        }
    }
}
