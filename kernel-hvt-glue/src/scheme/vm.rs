//! States of a VM.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use hvt_abi::kernel::{KernelError, MemoryMapping, MemoryRange};

use super::{
    account::{Account, Charge},
    gate::{Changing, Gate, Looking},
    kernel::{Caller, Kernel, Limits},
    space::Space,
};
use crate::hypervisor::Hypervisor;

/// VM, shared by its handles and by its vCPUs' handles.
pub struct VmObject<K: Kernel> {
    pub(super) kernel: K,
    /// `None` after the VM was destroyed. Running vCPUs hold shared access. The gate is paused
    /// while the VM is paused.
    space: Gate<Option<Space<K>>>,
    vcpus: AtomicU32,
    vcpu_limit: u32,
    _charge: Charge,
}

impl<K: Kernel> VmObject<K> {
    pub(super) fn new(
        kernel: &K,
        hypervisor: &Hypervisor<K>,
        account: &Arc<Account>,
        limits: Limits,
    ) -> Result<Self, KernelError> {
        let charge = Charge::vm(account, limits.vms)?;
        let space = Space::new(kernel, hypervisor, account, limits.pinned)?;
        Ok(Self {
            kernel: kernel.clone(),
            space: Gate::new(Some(space)),
            vcpus: AtomicU32::new(0),
            vcpu_limit: limits.vcpus,
            _charge: charge,
        })
    }

    pub(super) fn map(&self, map: &MemoryMapping, caller: &mut impl Caller<K>) -> Result<u64, KernelError> {
        self.change()?.as_mut().ok_or(KernelError::Destroyed)?.map(map, caller)
    }

    pub(super) fn unmap(&self, range: &MemoryRange) -> Result<u64, KernelError> {
        self.change()?.as_mut().ok_or(KernelError::Destroyed)?.unmap(range)
    }

    pub(super) fn protect(&self, range: &MemoryRange) -> Result<u64, KernelError> {
        self.change()?.as_mut().ok_or(KernelError::Destroyed)?.protect(range)
    }

    /// Acquires exclusive access. Memory changes only while no vCPU uses it.
    fn change(&self) -> Result<Changing<'_, Option<Space<K>>>, KernelError> {
        self.space.change()
    }

    pub(super) fn pause(&self) -> Result<u64, KernelError> {
        self.check()?;
        Ok(self.space.pause().into())
    }

    pub(super) fn resume(&self) -> Result<u64, KernelError> {
        self.check()?;
        self.space.resume();
        Ok(0)
    }

    /// Checks that the VM exists. A thread with exclusive access does not count as destroying the
    /// VM.
    fn check(&self) -> Result<(), KernelError> {
        match self.space.look() {
            Ok(space) if space.is_none() => Err(KernelError::Destroyed),
            _ => Ok(()),
        }
    }

    pub(super) fn destroy(&self) -> Result<u64, KernelError> {
        let space = self.change()?.take();
        space.map(|_| 0).ok_or(KernelError::Destroyed)
    }

    /// Adds one vCPU to the count.
    pub(super) fn admit(&self) -> Result<(), KernelError> {
        self.check()?;
        let grown = |count: u32| count.checked_add(1).filter(|grown| *grown <= self.vcpu_limit);
        self.vcpus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).map_err(|_| KernelError::LimitReached)?;
        Ok(())
    }

    /// Removes one vCPU from the count.
    pub(super) fn dismiss(&self) {
        self.vcpus.fetch_sub(1, Ordering::Relaxed);
    }

    /// Acquires shared access to the guest's memory, which is `None` after the VM was destroyed.
    pub(super) fn look(&self) -> Result<Looking<'_, Option<Space<K>>>, KernelError> {
        self.space.look()
    }

    /// Acquires shared access for a vCPU that is about to run.
    #[inline]
    pub(super) fn enter(&self) -> Result<Looking<'_, Option<Space<K>>>, KernelError> {
        self.space.enter().map_err(|error| self.explain(error))
    }

    /// Returns the error for a VM that was paused when it was destroyed: destroyed takes
    /// precedence.
    #[cold]
    fn explain(&self, error: KernelError) -> KernelError {
        self.check().err().unwrap_or(error)
    }
}
