//! Errors that prevent guests from running.

use hvt_abi::kernel::Obstacle;

use crate::host::OutOfMemory;

/// Reason that this machine cannot run guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// CPUID reports neither VMX nor SVM.
    #[error("the CPU has neither VMX nor SVM, or an outer hypervisor hides them")]
    NoExtension,
    /// The firmware has disabled and locked the extension.
    #[error("the firmware has disabled {extension}: enable it in the machine's setup ({register})")]
    DisabledByFirmware {
        /// VMX or SVM.
        extension: &'static str,
        /// Register with the lock.
        register: &'static str,
    },
    /// The CPU lacks a required feature of the extension.
    #[error("the CPU has {extension}, but not {feature}")]
    Missing {
        /// VMX or SVM.
        extension: &'static str,
        /// Name of the feature in the vendor's manual.
        feature: &'static str,
    },
    /// The kernel has not set EFER.NXE, which AMD's nested page tables require.
    #[error("the kernel has not set EFER.NXE")]
    NoExecuteDisabled,
    /// The kernel has no free frames.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

impl Unsupported {
    /// Converts the reason to the type for monitors in user space.
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

/// Reason that the extension cannot be enabled on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnableError {
    /// The extension is enabled already, either by this crate, with a [`Cpu`](crate::Cpu) still in
    /// existence, or by the kernel itself.
    #[error("virtualization is already in use on this CPU")]
    InUse,
    /// XCR0 lacks components that were enabled on the CPU that created the
    /// [`Hypervisor`](crate::Hypervisor).
    #[error("XCR0 is {found:#x} on this CPU, but guests need {expected:#x}")]
    FpuDiffers {
        /// XCR0 of this CPU.
        found: u64,
        /// Required components.
        expected: u64,
    },
    /// The firmware has locked VMX off on this CPU, but not on the CPU that created the
    /// [`Hypervisor`](crate::Hypervisor).
    #[error("the firmware has disabled VMX on this CPU: enable it in the machine's setup (IA32_FEATURE_CONTROL)")]
    DisabledByFirmware,
    /// VMX operation requires other values of control registers than the kernel's (CR0.NE, for
    /// example).
    #[error("VMX does not support CR0 = {cr0:#x}, CR4 = {cr4:#x}")]
    ControlRegisters {
        /// CR0.
        cr0: u64,
        /// CR4, without VMXE.
        cr4: u64,
    },
    /// The kernel uses shadow stacks or indirect branch tracking in supervisor mode. Entries and
    /// exits do not preserve their state. Both may be enabled for user mode.
    #[error("the kernel has enabled CET in supervisor mode: IA32_S_CET is {s_cet:#x}")]
    SupervisorCet {
        /// IA32_S_CET.
        s_cet: u64,
    },
    /// The kernel has no free frames.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// Reason that a virtual CPU cannot be bound to a CPU. The guest was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// VMX: the virtual CPU was bound to another CPU, and the [`Bound`](crate::Bound) was leaked
    /// instead of dropped.
    #[error("the virtual CPU is still active on CPU {cpu}")]
    ActiveElsewhere {
        /// Number of the other CPU.
        cpu: u32,
    },
    /// VMX: a VM exit cannot load a selector of the kernel, because the selector's RPL is not 0 or
    /// its segment is in the LDT. Load a null selector first.
    #[error("the kernel's {register} is {selector:#x}, which a VM exit cannot load")]
    HostSelector {
        /// The segment register.
        register: &'static str,
        /// The selector in it.
        selector: u16,
    },
    /// VMX: the CPU rejects the control structure, due to an error of this crate or of the kernel's
    /// memory.
    #[error("the CPU rejects the VMCS")]
    ControlStructure,
}
