//! The machine's virtualization extension: found once, enabled on each CPU.

use crate::host::{Host, OutOfMemory};

/// Why this machine cannot run guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// CPUID offers neither VMX nor SVM.
    #[error("the CPU has neither VMX nor SVM")]
    NoExtension,
    /// The kernel has no frames left.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// Why this CPU cannot be enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnableError {
    /// Somebody else uses the extension on this CPU.
    #[error("virtualization is already in use on this CPU")]
    InUse,
    /// The kernel has no frames left.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// What all virtual machines share. One for a kernel; every [`Vm`](crate::Vm) keeps what it needs of it alive.
pub struct Hypervisor<H: Host> {
    host: H,
}

impl<H: Host> Hypervisor<H> {
    /// Looks at the CPU this runs on (all CPUs of a machine are alike) and sets up what is shared.
    ///
    /// # Errors
    /// The reason why this machine cannot run guests.
    pub fn new(host: H) -> Result<Self, Unsupported> {
        let _ = Self { host };
        Err(Unsupported::NoExtension)
    }

    /// Enables the extension on the CPU this runs on. The kernel keeps the [`Cpu`] in its per-CPU data and drops it, on
    /// the same CPU, to disable the extension again.
    ///
    /// # Errors
    /// The extension is in use by somebody else, or there is no memory.
    ///
    /// # Safety
    /// The caller runs at CPL 0, in 64-bit mode, and stays on this CPU until the call returns.
    pub unsafe fn enable(&self) -> Result<Cpu<H>, EnableError> {
        Ok(Cpu { host: self.host.clone(), not_send: core::marker::PhantomData })
    }
}

/// A CPU on which virtualization is enabled. Dropping it, on that CPU, restores what was there before.
pub struct Cpu<H: Host> {
    host: H,
    not_send: core::marker::PhantomData<*mut ()>,
}

impl<H: Host> Cpu<H> {
    /// [`Host::cpu_index`] of this CPU.
    #[must_use]
    pub fn index(&self) -> u32 {
        let _ = self.not_send;
        self.host.cpu_index()
    }
}
