//! CPUID of a guest on KVM: KVM's supported CPUID, filtered by [`hvt_abi::x86_64::cpuid`].
//!
//! KVM reports everything that it could emulate: hypervisors, its paravirtual leaves, performance
//! counters, and the number of the CPU that happened to answer. KVM also derives permissions from
//! CPUID: control bits and MSRs of missing features raise #GP. KVM updates two bits itself,
//! according to the guest's CR4.OSXSAVE and its APIC.
//! are not in it raise #GP. Two bits KVM sets itself, as the guest's CR4.OSXSAVE and its APIC have it.

use hvt_abi::x86_64::cpuid::{
    AMD_ECX, AMD_EDX, AVX_VNNI, AVX512_BF16, CLZERO, COMPONENTS, EXTENDED_EBX, EXTENDED_ECX, EXTENDED_EDX,
    FEATURES_ECX, FEATURES_EDX, FIRST_EXTENDED, INVARIANT_TSC, LAST_BASIC, LAST_EXTENDED, XSAVE_FEATURES,
};
use kvm_bindings::kvm_cpuid_entry2;

/// Leaf 8000_0001h EDX: RDTSCP. KVM gives each guest a separate IA32_TSC_AUX.
const RDTSCP: u32 = 1 << 27;

/// Size of the XSAVE area in bytes without any component behind its header (SDM volume 1, 13.4).
const LEGACY_AREA: u32 = 512 + 64;

/// Filters the leaves in `offered` for a guest.
pub(super) fn filter(offered: &[kvm_cpuid_entry2]) -> Vec<kvm_cpuid_entry2> {
    let area =
        offered.iter().filter(|entry| is_component(entry)).map(|entry| entry.ebx.saturating_add(entry.eax)).max();
    let area = area.unwrap_or(0).max(LEGACY_AREA);
    offered.iter().filter_map(|entry| answer(entry, area)).collect()
}

/// Returns true if `entry` describes a component of the guest's XSAVE area behind the header.
fn is_component(entry: &kvm_cpuid_entry2) -> bool {
    entry.function == 0xd && (2..u32::BITS).contains(&entry.index) && COMPONENTS >> entry.index & 1 == 1
}

/// Filters one leaf. Returns `None` for a leaf that reads as zeros. `area` is the size of the
/// guest's XSAVE area with all components.
fn answer(offered: &kvm_cpuid_entry2, area: u32) -> Option<kvm_cpuid_entry2> {
    let kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, .. } = *offered;
    let (eax, ebx, ecx, edx) = match (function, index) {
        (0, _) => (eax.min(LAST_BASIC), ebx, ecx, edx),
        // Brand index and CLFLUSH size; one logical processor, number 0.
        (1, _) => (eax, ebx & 0xffff | 1 << 16, ecx & FEATURES_ECX, edx & FEATURES_EDX),
        // Cache descriptors; TSC and processor frequency; brand string; AMD's caches.
        (2 | 0x15 | 0x16 | 0x8000_0002..=0x8000_0006, _) => (eax, ebx, ecx, edx),
        // Caches and their geometry, without the number of CPUs that share them.
        (4, _) => (eax & 0x3fff, ebx, ecx, edx),
        (7, 0) => (eax.min(1), ebx & EXTENDED_EBX, ecx & EXTENDED_ECX, edx & EXTENDED_EDX),
        (7, 1) => (eax & (AVX_VNNI | AVX512_BF16), 0, 0, 0),
        // EBX depends on the guest's XCR0; KVM fills it in.
        (0xd, 0) => (eax & COMPONENTS, ebx, ecx.min(area), 0),
        (0xd, 1) => (eax & XSAVE_FEATURES, 0, 0, 0),
        (0xd, _) if is_component(offered) => (eax, ebx, ecx, edx),
        (FIRST_EXTENDED, _) => (eax.min(LAST_EXTENDED), ebx, ecx, edx),
        (0x8000_0001, _) => (eax, 0, ecx & AMD_ECX, edx & (AMD_EDX | RDTSCP)),
        (0x8000_0007, _) => (0, 0, 0, edx & INVARIANT_TSC),
        // Numbers of physical and linear address bits.
        (LAST_EXTENDED, _) => (eax & 0xffff, ebx & CLZERO, 0, 0),
        _ => return None,
    };
    Some(kvm_cpuid_entry2 { eax, ebx, ecx, edx, ..*offered })
}

#[cfg(test)]
mod tests;
