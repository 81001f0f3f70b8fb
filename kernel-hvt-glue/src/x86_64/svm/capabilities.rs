//! Capabilities of SVM on this machine (APM volume 2, 15.4; volume 3, appendix E.4.9).

use hvt_abi::x86_64::{Efer, msr};
use raw_cpuid::{CpuId, CpuIdReader};

use crate::{
    paging::Level,
    x86_64::{cpuid::physical_address_bits, error::Unsupported, mitigations::Mitigations},
};

/// VM_CR (APM volume 2, 15.30.1).
const VM_CR: u32 = 0xc001_0114;
/// VM_CR.SVMDIS: if set, EFER.SVME cannot be set.
const SVMDIS: u64 = 1 << 4;

/// Capabilities of a CPU that has SVM with nested paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SvmCapabilities {
    /// Number of address space identifiers, including the host's, which is 0.
    pub(crate) asids: u32,
    /// The CPU saves the address of the next instruction at an exit.
    pub(crate) nrip_save: bool,
    /// The CPU reports the register of a `mov` to a control register.
    pub(crate) decode_assists: bool,
    /// The CPU caches parts of the VMCB that are marked as unchanged.
    pub(crate) clean_bits: bool,
    /// Nested page tables support pages of 1 GiB.
    pub(crate) huge_pages: bool,
    /// Root level of nested page tables.
    pub(crate) root_level: Level,
    /// Number of bits in a physical address.
    pub(crate) physical_address_bits: u32,
    /// Mitigations of the CPU's vulnerabilities.
    pub(crate) mitigations: Mitigations,
}

impl SvmCapabilities {
    pub(crate) fn discover<R: CpuIdReader>(
        id: &CpuId<R>,
        cpuid: &R,
        host_cr4: u64,
        rdmsr: impl Fn(u32) -> u64,
    ) -> Result<Self, Unsupported> {
        const EXTENSION: &str = "SVM";
        if rdmsr(VM_CR) & SVMDIS != 0 {
            return Err(Unsupported::DisabledByFirmware { extension: EXTENSION, register: "VM_CR.SVMDIS" });
        }
        let missing = |feature| Unsupported::Missing { extension: EXTENSION, feature };
        let svm = id.get_svm_info().ok_or(missing("CPUID leaf 8000_000Ah"))?;
        if !svm.has_nested_paging() {
            return Err(missing("nested paging"));
        }
        if svm.supported_asids() < 2 {
            return Err(missing("an ASID for a guest"));
        }
        if !Efer::from_bits_retain(rdmsr(msr::EFER)).contains(Efer::NXE) {
            return Err(Unsupported::NoExecuteDisabled);
        }
        let extended = id.get_extended_processor_and_feature_identifiers();
        Ok(Self {
            asids: svm.supported_asids(),
            nrip_save: svm.has_nrip(),
            decode_assists: svm.has_decode_assists(),
            clean_bits: svm.has_vmcb_clean_bits(),
            huge_pages: extended.is_some_and(|extended| extended.has_1gib_pages()),
            root_level: Self::root_level(host_cr4),
            physical_address_bits: physical_address_bits(id),
            mitigations: Mitigations::amd(cpuid),
        })
    }

    /// Returns the root level of nested page tables, which equals that level of the host's own
    /// tables (APM volume 2, 15.25.3).
    const fn root_level(host_cr4: u64) -> Level {
        const LA57: u64 = 1 << 12;
        if host_cr4 & LA57 != 0 { Level::ROOT5 } else { Level::ROOT4 }
    }
}

#[cfg(test)]
mod tests {
    use raw_cpuid::CpuIdResult;

    use super::*;
    use crate::{fake::FakeHost, x86_64::machine::choose};

    /// QEMU's software emulation of an EPYC: nested paging without optional features.
    fn epyc(svm_ebx: u32, svm_edx: u32) -> impl Fn(u32, u32) -> CpuIdResult + Clone {
        move |leaf, _| {
            let (eax, ebx, ecx, edx) = match leaf {
                0 => (0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65),
                0x8000_0000 => (0x8000_000a, 0x6874_7541, 0x444d_4163, 0x6974_6e65),
                0x8000_0001 => (0x80_0f12, 0, 1 << 2, 1 << 26 | 1 << 20),
                0x8000_0008 => (0x3028, 0, 0, 0),
                0x8000_000a => (1, svm_ebx, 0, svm_edx),
                _ => (0, 0, 0, 0),
            };
            CpuIdResult { eax, ebx, ecx, edx }
        }
    }

    fn msrs(vm_cr: u64, efer: u64) -> impl Fn(u32) -> u64 {
        move |index| match index {
            VM_CR => vm_cr,
            msr::EFER => efer,
            _ => panic!("{index:#x} was not announced"),
        }
    }

    fn discover(cpuid: impl CpuIdReader, rdmsr: impl Fn(u32) -> u64) -> Result<SvmCapabilities, Unsupported> {
        SvmCapabilities::discover(&CpuId::with_cpuid_reader(cpuid.clone()), &cpuid, 0x20, rdmsr)
    }

    #[test]
    fn the_least_that_is_needed() {
        let found = discover(epyc(16, 1), msrs(0, 0xd01));
        let expected = SvmCapabilities {
            asids: 16,
            nrip_save: false,
            decode_assists: false,
            clean_bits: false,
            huge_pages: true,
            root_level: Level::ROOT4,
            physical_address_bits: 40,
            mitigations: Mitigations::amd(&epyc(16, 1)),
        };
        assert_eq!(found, Ok(expected));
        let all = discover(epyc(0x8000, 0xff), msrs(0, 0xd01));
        let expected =
            SvmCapabilities { asids: 0x8000, nrip_save: true, decode_assists: true, clean_bits: true, ..expected };
        assert_eq!(all, Ok(expected));
    }

    #[test]
    fn a_machine_that_cannot_says_why() {
        let why = |cpuid, msrs| discover(cpuid, msrs).unwrap_err();
        let firmware = Unsupported::DisabledByFirmware { extension: "SVM", register: "VM_CR.SVMDIS" };
        assert_eq!(why(epyc(16, 1), msrs(SVMDIS, 0xd01)), firmware);
        let missing = |feature| Unsupported::Missing { extension: "SVM", feature };
        assert_eq!(why(epyc(16, 0), msrs(0, 0xd01)), missing("nested paging"));
        assert_eq!(why(epyc(1, 1), msrs(0, 0xd01)), missing("an ASID for a guest"));
        assert_eq!(why(epyc(16, 1), msrs(0, 0x501)), Unsupported::NoExecuteDisabled);
        let nothing = |_, _| CpuIdResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
        let chosen = choose(&FakeHost::new(1), 0, nothing, |_| unreachable!()).map(|_| ());
        assert_eq!(chosen, Err(Unsupported::NoExtension));
    }

    #[test]
    fn nested_tables_are_as_deep_as_the_hosts() {
        assert_eq!(SvmCapabilities::root_level(0x20), Level::ROOT4);
        assert_eq!(SvmCapabilities::root_level(0x1020), Level::ROOT5);
    }
}
