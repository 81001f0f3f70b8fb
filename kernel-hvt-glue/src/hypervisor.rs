//! The machine's virtualization extension: detected once, enabled on each CPU.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

use alloc::sync::Arc;
use core::{fmt, marker::PhantomData, mem::ManuallyDrop};

use crate::{
    arch::{Arch, Capabilities},
    host::Host,
    native,
};

/// Hypervisor state that all virtual machines share. A kernel creates one. Each value created from
/// it keeps the shared state alive.
pub struct Hypervisor<H: Host, A: Arch<H> = native::Machine<H>> {
    pub(crate) shared: Arc<Shared<H, A>>,
}

/// Shared state of a [`Hypervisor`].
pub(crate) struct Shared<H: Host, A: Arch<H>> {
    pub(crate) host: H,
    pub(crate) arch: A,
}

impl<H: Host> Hypervisor<H> {
    /// Detects the features of the current CPU, which must represent all CPUs of the machine, and
    /// sets up the shared state.
    ///
    /// # Errors
    /// Returns [`Unsupported`](native::Unsupported) with the reason that this machine cannot run
    /// guests.
    ///
    /// # Safety
    /// The caller must run at kernel privilege, as defined by [`native::Machine`].
    pub unsafe fn new(host: H) -> Result<Self, native::Unsupported> {
        // SAFETY: guaranteed by the caller.
        let arch = unsafe { native::Machine::discover(&host)? };
        Ok(Self::assemble(host, arch))
    }
}

impl<H: Host, A: Arch<H>> Hypervisor<H, A> {
    pub(crate) fn assemble(host: H, arch: A) -> Self {
        Self { shared: Arc::new(Shared { host, arch }) }
    }

    /// Returns the properties of the machine's extension.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.shared.arch.capabilities()
    }

    /// Enables the extension on the current CPU. The kernel keeps the [`Cpu`] in its per-CPU data,
    /// and drops it on the same CPU to disable the extension.
    ///
    /// # Errors
    /// Returns [`EnableError`](native::EnableError) if the CPU or its firmware rejects the
    /// extension. Nothing has changed then.
    ///
    /// # Safety
    /// - The caller must run at kernel privilege.
    /// - The CPU must be in the state that [`native::Machine`] defines, and stay in it while the
    ///   [`Cpu`] exists.
    /// - During a call of this crate, and while a [`Bound`](crate::Bound) exists, the kernel may
    ///   take interrupts on this CPU. It must not run another thread on this CPU or migrate the
    ///   current one.
    pub unsafe fn enable(&self) -> Result<Cpu<H, A>, A::EnableError> {
        let Shared { host, arch } = &*self.shared;
        // SAFETY: guaranteed by the caller.
        let state = ManuallyDrop::new(unsafe { arch.enable(host)? });
        let index = host.cpu_index();
        Ok(Cpu { shared: self.shared.clone(), index, last_vm: 0, state, stays_here: PhantomData })
    }
}

impl<H: Host, A: Arch<H>> Clone for Hypervisor<H, A> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<H: Host, A: Arch<H>> fmt::Debug for Hypervisor<H, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hypervisor").field(&self.capabilities()).finish()
    }
}

/// CPU on which the extension is enabled.
///
/// Dropping the value on that CPU restores the CPU's previous state. Dropping it on another CPU
/// leaves the extension enabled and leaks its few frames, because the CPU may still use them.
pub struct Cpu<H: Host, A: Arch<H> = native::Machine<H>> {
    pub(crate) shared: Arc<Shared<H, A>>,
    index: u32,
    /// Number of the virtual machine that was bound last.
    last_vm: u64,
    pub(crate) state: ManuallyDrop<A::Cpu>,
    stays_here: PhantomData<*mut ()>,
}

impl<H: Host, A: Arch<H>> Cpu<H, A> {
    /// Returns the [`Host::cpu_index`] of this CPU.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Prepares the CPU for guests of the virtual machine with this number.
    ///
    /// # Safety
    /// This CPU must be the current one.
    #[inline]
    pub(crate) unsafe fn admit(&mut self, vm: u64) {
        if self.last_vm != vm {
            self.last_vm = vm;
            // SAFETY: guaranteed by the caller.
            unsafe { self.shared.arch.change_vm(&mut self.state) };
        }
    }
}

impl<H: Host, A: Arch<H>> Drop for Cpu<H, A> {
    fn drop(&mut self) {
        // SAFETY: `state` is not used again.
        let state = unsafe { ManuallyDrop::take(&mut self.state) };
        let Shared { host, arch } = &*self.shared;
        if host.cpu_index() == self.index {
            // SAFETY: a `Cpu` exists only while the extension is enabled, and this is the same CPU.
            unsafe { arch.disable(state) }
        } else {
            arch.abandon(state);
        }
    }
}

impl<H: Host, A: Arch<H>> fmt::Debug for Cpu<H, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu").field("index", &self.index).finish_non_exhaustive()
    }
}
