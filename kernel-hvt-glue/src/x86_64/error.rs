//! Reasons why guests cannot run.

use hvt_abi::kernel::Obstacle;

use crate::host::OutOfMemory;

/// Reason why this machine cannot run guests.
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

impl Unsupported {
    /// The same in the terms of monitors in user space.
    pub(crate) const fn obstacle(&self) -> Obstacle {
        match self {
            Self::NoExtension => Obstacle::NoExtension,
            Self::DisabledByFirmware { .. } => Obstacle::DisabledByFirmware,
            Self::Missing { .. } => Obstacle::MissingFeature,
            Self::NoExecuteDisabled => Obstacle::Kernel,
            Self::OutOfMemory(_) => Obstacle::OutOfMemory,
        }
    }
}

/// Reason why the extension cannot be enabled on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnableError {
    /// It is enabled already: by this crate, and the [`Cpu`](crate::Cpu) is somewhere, or by the kernel itself.
    #[error("virtualization is in use on this CPU already")]
    InUse,
    /// XCR0 lacks components that the CPU had on which the [`Hypervisor`](crate::Hypervisor) was made.
    #[error("XCR0 is {found:#x} on this CPU, but guests expect {expected:#x}")]
    FpuDiffers {
        /// XCR0 of this CPU.
        found: u64,
        /// Components that it has to contain.
        expected: u64,
    },
    /// The firmware has locked VMX off on this CPU, but not on the one on which the [`Hypervisor`](crate::Hypervisor) was made.
    #[error("the firmware has disabled VMX on this CPU: enable it in the machine's setup (IA32_FEATURE_CONTROL)")]
    DisabledByFirmware,
    /// VMX operation wants other values of control registers than the kernel's (CR0.NE, for example).
    #[error("VMX does not run with CR0 = {cr0:#x}, CR4 = {cr4:#x}")]
    ControlRegisters {
        /// CR0.
        cr0: u64,
        /// CR4, without VMXE.
        cr4: u64,
    },
    /// The kernel runs with shadow stacks or indirect branch tracking for itself. Entries and exits do not keep these; the
    /// same for user mode may be on.
    #[error("the kernel has control-flow enforcement for itself enabled: IA32_S_CET is {s_cet:#x}")]
    SupervisorCet {
        /// IA32_S_CET.
        s_cet: u64,
    },
    /// The kernel has no frames left.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// Reason why a virtual CPU cannot be entered on a CPU. It was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// VMX: the virtual CPU was bound to another CPU and the [`Bound`](crate::Bound) forgotten instead of dropped.
    #[error("the virtual CPU is still tied to CPU {cpu}")]
    ActiveElsewhere {
        /// That CPU.
        cpu: u32,
    },
    /// VMX: a selector of the kernel that a VM exit cannot load, not of ring 0 or in the LDT. Load a null selector
    /// before.
    #[error("the kernel's {register} is {selector:#x}, which a VM exit cannot load")]
    HostSelector {
        /// The segment register.
        register: &'static str,
        /// The selector in it.
        selector: u16,
    },
    /// VMX: the CPU does not take the control structure, an error of this crate or of the kernel's memory.
    #[error("the CPU does not take the VMCS")]
    ControlStructure,
}
