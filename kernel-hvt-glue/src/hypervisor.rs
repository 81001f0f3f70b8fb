//! The machine's virtualization extension: found once, enabled on each CPU.

use alloc::sync::Arc;
use core::{fmt, marker::PhantomData, mem::ManuallyDrop};

use crate::{
    arch::{Arch, Capabilities},
    host::Host,
    native,
};

/// State that all virtual machines share. A kernel has one; everything made from it keeps what it needs of it alive.
pub struct Hypervisor<H: Host, A: Arch<H> = native::Machine<H>> {
    pub(crate) shared: Arc<Shared<H, A>>,
}

/// See [`Hypervisor`].
pub(crate) struct Shared<H: Host, A: Arch<H>> {
    pub(crate) host: H,
    pub(crate) arch: A,
}

impl<H: Host> Hypervisor<H> {
    /// Looks at the CPU this runs on, which stands for all CPUs of the machine, and sets up what is shared.
    ///
    /// # Errors
    /// The reason why this machine cannot run guests.
    ///
    /// # Safety
    /// The caller runs at the privilege of a kernel, as [`native::Machine`] states it.
    pub unsafe fn new(host: H) -> Result<Self, native::Unsupported> {
        // SAFETY: the caller's promise.
        let arch = unsafe { native::Machine::discover(&host)? };
        Ok(Self::assemble(host, arch))
    }
}

impl<H: Host, A: Arch<H>> Hypervisor<H, A> {
    pub(crate) fn assemble(host: H, arch: A) -> Self {
        Self { shared: Arc::new(Shared { host, arch }) }
    }

    /// Properties of the machine's extension.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.shared.arch.capabilities()
    }

    /// Enables the extension on the CPU this runs on. The kernel keeps the [`Cpu`] in its per-CPU data, and drops it on
    /// the same CPU to disable the extension again.
    ///
    /// # Errors
    /// [`EnableError`](native::EnableError); nothing was changed.
    ///
    /// # Safety
    /// The caller runs at the privilege of a kernel; the CPU is, and stays while the [`Cpu`] exists, as [`native::Machine`]
    /// states it. In the middle of a call of this crate, and while a [`Bound`](crate::Bound) exists, the kernel may take
    /// interrupts on this CPU, but runs no other thread on it and moves this one nowhere.
    pub unsafe fn enable(&self) -> Result<Cpu<H, A>, A::EnableError> {
        let Shared { host, arch } = &*self.shared;
        // SAFETY: the caller's promise.
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

/// A CPU on which the extension is enabled. Dropped on that CPU, it restores what was there before; dropped on another
/// one, it leaves the extension enabled and its few frames to the CPU, which may still use them.
pub struct Cpu<H: Host, A: Arch<H> = native::Machine<H>> {
    pub(crate) shared: Arc<Shared<H, A>>,
    index: u32,
    /// Number of the virtual machine that was bound last.
    last_vm: u64,
    pub(crate) state: ManuallyDrop<A::Cpu>,
    stays_here: PhantomData<*mut ()>,
}

impl<H: Host, A: Arch<H>> Cpu<H, A> {
    /// [`Host::cpu_index`] of this CPU.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Prepares the CPU for guests of the virtual machine with this number.
    ///
    /// # Safety
    /// This CPU is the one.
    #[inline]
    pub(crate) unsafe fn admit(&mut self, vm: u64) {
        if self.last_vm != vm {
            self.last_vm = vm;
            // SAFETY: the caller's promise.
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
            // SAFETY: a `Cpu` exists where the extension can be enabled, and this is the CPU.
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
