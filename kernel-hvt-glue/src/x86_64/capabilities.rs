//! What this machine can do, or why it cannot.

use raw_cpuid::{CpuId, CpuIdReader};

use super::{mitigations::Mitigations, svm::capabilities::SvmCapabilities, vmx::capabilities::VmxCapabilities};
use crate::host::OutOfMemory;

/// Why this machine cannot run guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// CPUID offers neither VMX nor SVM.
    #[error("the CPU offers neither VMX nor SVM (or a hypervisor above hides them)")]
    NoExtension,
    /// The firmware has switched the extension off and locked it.
    #[error("the firmware has disabled {extension}: enable it in the machine's setup ({register})")]
    DisabledByFirmware {
        /// VMX or SVM.
        extension: &'static str,
        /// The register that says so.
        register: &'static str,
    },
    /// A part of the extension that this crate needs is missing.
    #[error("the CPU has {extension}, but not {feature}")]
    Missing {
        /// VMX or SVM.
        extension: &'static str,
        /// The part, as the manuals call it.
        feature: &'static str,
    },
    /// The kernel has not set EFER.NXE, which AMD's nested page tables need.
    #[error("the kernel runs without EFER.NXE")]
    NoExecuteDisabled,
    /// The kernel has no frames left.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// What the extension of this machine can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capabilities {
    /// AMD: Secure Virtual Machine.
    Svm(SvmCapabilities),
    /// Intel: Virtual-Machine Extensions.
    Vmx(VmxCapabilities),
}

impl Capabilities {
    /// What is done about the CPU's weaknesses.
    pub(crate) const fn mitigations(&self) -> &Mitigations {
        match self {
            Self::Svm(svm) => &svm.mitigations,
            Self::Vmx(vmx) => &vmx.mitigations,
        }
    }
}

/// Asks the CPU. `rdmsr` is called only for registers that CPUID announces.
pub(crate) fn discover<R: CpuIdReader>(cpuid: R, rdmsr: impl Fn(u32) -> u64) -> Result<Capabilities, Unsupported> {
    let id = CpuId::with_cpuid_reader(cpuid.clone());
    let has_svm = id.get_extended_processor_and_feature_identifiers().is_some_and(|extended| extended.has_svm());
    let has_vmx = id.get_feature_info().is_some_and(|features| features.has_vmx());
    match (has_svm, has_vmx) {
        (true, _) => SvmCapabilities::discover(&id, &cpuid, rdmsr).map(Capabilities::Svm),
        (false, true) => VmxCapabilities::discover(&cpuid, physical_address_bits(&id), rdmsr).map(Capabilities::Vmx),
        (false, false) => Err(Unsupported::NoExtension),
    }
}

/// Bits of a guest-physical address that can be mapped: those of the CPU's physical addresses (CPUID 8000_0008h).
pub(crate) fn physical_address_bits<R: CpuIdReader>(id: &CpuId<R>) -> u32 {
    id.get_processor_capacity_feature_info().map_or(36, |info| info.physical_address_bits().into())
}
