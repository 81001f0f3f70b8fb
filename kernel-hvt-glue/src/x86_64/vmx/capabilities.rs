//! Capabilities of VMX on this machine (SDM volume 3, appendix A).

use raw_cpuid::{CpuId, CpuIdReader};
use x86::msr;

use super::controls::{self, Controls};
use crate::x86_64::{cpuid::physical_address_bits, error::Unsupported, mitigations::Mitigations};

/// IA32_FEATURE_CONTROL: the register is read-only until the next reset.
pub(super) const LOCK: u64 = 1 << 0;
/// IA32_FEATURE_CONTROL: VMXON is allowed outside of SMX operation.
pub(super) const VMXON_OUTSIDE_SMX: u64 = 1 << 2;

/// Capabilities of a CPU that has VMX with EPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VmxCapabilities {
    /// VMCS revision identifier.
    pub(crate) revision: u32,
    /// Bits of CR0 that must be 1 in VMX operation.
    pub(crate) cr0_fixed0: u64,
    /// Bits of CR0 that may be 1 in VMX operation.
    pub(crate) cr0_fixed1: u64,
    /// Bits of CR4 that must be 1 in VMX operation.
    pub(crate) cr4_fixed0: u64,
    /// Bits of CR4 that may be 1 in VMX operation.
    pub(crate) cr4_fixed1: u64,
    /// EPT: execute-only pages.
    pub(crate) execute_only: bool,
    /// EPT: pages of 2 MiB.
    pub(crate) large_pages: bool,
    /// EPT: pages of 1 GiB.
    pub(crate) huge_pages: bool,
    /// EPT: accessed and dirty flags.
    pub(crate) accessed_dirty: bool,
    /// INVEPT supports a single EPT pointer; otherwise only all of them.
    pub(crate) invept_single: bool,
    /// Virtual-processor identifiers are available, with INVVPID of all contexts.
    pub(crate) vpid: bool,
    /// IA32_VMX_MISC bits 4:0: the preemption timer counts when this bit of the TSC changes.
    pub(crate) preemption_timer_rate: u32,
    /// Number of bits in a physical address.
    pub(crate) physical_address_bits: u32,
    /// Mitigations of the CPU's vulnerabilities.
    pub(crate) mitigations: Mitigations,
    /// VM-execution, exit and entry controls for every virtual CPU.
    pub(crate) controls: Controls,
}

impl VmxCapabilities {
    pub(crate) fn discover<R: CpuIdReader>(
        id: &CpuId<R>,
        cpuid: &R,
        rdmsr: impl Fn(u32) -> u64,
    ) -> Result<Self, Unsupported> {
        let feature_control = rdmsr(msr::IA32_FEATURE_CONTROL);
        if feature_control & LOCK != 0 && feature_control & VMXON_OUTSIDE_SMX == 0 {
            return Err(Unsupported::DisabledByFirmware { extension: "VMX", register: "IA32_FEATURE_CONTROL" });
        }
        let basic = rdmsr(msr::IA32_VMX_BASIC);
        let has = |word: u64, bit: u32, feature| {
            if word >> bit & 1 == 1 { Ok(()) } else { Err(Unsupported::Missing { extension: "VMX", feature }) }
        };
        has(basic, 55, "true controls")?;
        let primary = rdmsr(msr::IA32_VMX_TRUE_PROCBASED_CTLS);
        has(primary, 32 + 31, "secondary controls")?;
        let secondary = rdmsr(msr::IA32_VMX_PROCBASED_CTLS2);
        has(secondary, 32 + 1, "EPT")?;
        let ept = rdmsr(msr::IA32_VMX_EPT_VPID_CAP);
        has(ept, 6, "EPT of four levels")?;
        has(ept, 14, "write-back EPT")?;
        has(ept, 20, "INVEPT")?;
        has(ept, 26, "INVEPT of all contexts")?;
        let bit = |number: u32| ept >> number & 1 == 1;
        // INVVPID, and its type for all contexts.
        let vpid = secondary >> (32 + 5) & 1 == 1 && bit(32) && bit(42);
        Ok(Self {
            revision: basic as u32 & 0x7fff_ffff,
            cr0_fixed0: rdmsr(msr::IA32_VMX_CR0_FIXED0),
            cr0_fixed1: rdmsr(msr::IA32_VMX_CR0_FIXED1),
            cr4_fixed0: rdmsr(msr::IA32_VMX_CR4_FIXED0),
            cr4_fixed1: rdmsr(msr::IA32_VMX_CR4_FIXED1),
            execute_only: bit(0),
            large_pages: bit(16),
            huge_pages: bit(17),
            accessed_dirty: bit(21),
            invept_single: bit(25),
            vpid,
            preemption_timer_rate: (rdmsr(msr::IA32_VMX_MISC) & 0x1f) as u32,
            physical_address_bits: physical_address_bits(id),
            mitigations: Mitigations::intel(cpuid, &rdmsr),
            controls: Controls::choose(
                controls::Allowed {
                    pin_based: rdmsr(msr::IA32_VMX_TRUE_PINBASED_CTLS),
                    primary,
                    secondary,
                    exit: rdmsr(msr::IA32_VMX_TRUE_EXIT_CTLS),
                    entry: rdmsr(msr::IA32_VMX_TRUE_ENTRY_CTLS),
                },
                vpid,
            )?,
        })
    }
}
