//! The states of a VM.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hvt_abi::kernel::{Error, MemoryMap, MemoryRange};
use spin::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{
    Caller, Kernel, Limits,
    account::{Account, Charge},
    space::Space,
};
use crate::{Hypervisor, Vm};

/// A VM, as handles to it and to its vCPUs hold it.
pub struct VmObject<K: Kernel> {
    pub(super) kernel: K,
    /// `None` once it is destroyed. Read by vCPUs that run; only ever tried, never waited for.
    space: RwLock<Option<Space<K>>>,
    paused: AtomicBool,
    /// vCPUs that are in the guest or on their way.
    running: AtomicU32,
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
    ) -> Result<Self, Error> {
        let charge = Charge::vm(account, limits.vms)?;
        let space = Space::new(kernel, hypervisor, account, limits.pinned)?;
        Ok(Self {
            kernel: kernel.clone(),
            space: RwLock::new(Some(space)),
            paused: AtomicBool::new(false),
            running: AtomicU32::new(0),
            vcpus: AtomicU32::new(0),
            vcpu_limit: limits.vcpus,
            _charge: charge,
        })
    }

    pub(super) fn map(&self, map: &MemoryMap, caller: &mut impl Caller<K>) -> Result<u64, Error> {
        self.change()?.as_mut().ok_or(Error::Destroyed)?.map(map, caller)
    }

    pub(super) fn unmap(&self, range: &MemoryRange) -> Result<u64, Error> {
        self.change()?.as_mut().ok_or(Error::Destroyed)?.unmap(range)
    }

    pub(super) fn protect(&self, range: &MemoryRange) -> Result<u64, Error> {
        self.change()?.as_mut().ok_or(Error::Destroyed)?.protect(range)
    }

    /// Memory changes only while no vCPU uses it.
    fn change(&self) -> Result<RwLockWriteGuard<'_, Option<Space<K>>>, Error> {
        self.space.try_write().ok_or(Error::Busy)
    }

    pub(super) fn pause(&self) -> Result<u64, Error> {
        self.check()?;
        self.paused.store(true, Ordering::SeqCst);
        // A vCPU that enters either sees that the VM is paused or is counted here.
        Ok(self.running.load(Ordering::SeqCst).into())
    }

    pub(super) fn resume(&self) -> Result<u64, Error> {
        self.check()?;
        self.paused.store(false, Ordering::SeqCst);
        Ok(0)
    }

    /// Whether the VM still exists. A writer that is at work is not about to end it for this caller.
    fn check(&self) -> Result<(), Error> {
        match self.space.try_read() {
            Some(space) if space.is_none() => Err(Error::Destroyed),
            _ => Ok(()),
        }
    }

    pub(super) fn destroy(&self) -> Result<u64, Error> {
        let space = self.change()?.take();
        space.map(|_| 0).ok_or(Error::Destroyed)
    }

    /// One more vCPU.
    pub(super) fn admit(&self) -> Result<(), Error> {
        self.check()?;
        let grown = |count: u32| count.checked_add(1).filter(|grown| *grown <= self.vcpu_limit);
        self.vcpus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).map_err(|_| Error::LimitReached)?;
        Ok(())
    }

    /// One vCPU less.
    pub(super) fn dismiss(&self) {
        self.vcpus.fetch_sub(1, Ordering::Relaxed);
    }

    /// The guest's memory, as long as nobody changes it.
    pub(super) fn space(&self) -> Result<Lent<'_, K>, Error> {
        let space = self.space.try_read().ok_or(Error::Busy)?;
        if space.is_none() {
            return Err(Error::Destroyed);
        }
        Ok(Lent(space))
    }

    /// The same, for a vCPU that is about to run.
    #[inline]
    pub(super) fn enter(&self) -> Result<Entered<'_, K>, Error> {
        let entered = Entered { running: &self.running, space: self.space()? };
        self.running.fetch_add(1, Ordering::SeqCst);
        if self.paused.load(Ordering::SeqCst) {
            return Err(Error::Paused);
        }
        Ok(entered)
    }
}

/// Guest memory that does not change.
pub(super) struct Lent<'a, K: Kernel>(RwLockReadGuard<'a, Option<Space<K>>>);

impl<K: Kernel> Lent<'_, K> {
    #[inline]
    pub(super) fn vm(&self) -> Result<&Vm<K>, Error> {
        self.0.as_ref().map(Space::vm).ok_or(Error::Destroyed)
    }
}

/// A vCPU in the guest.
pub(super) struct Entered<'a, K: Kernel> {
    running: &'a AtomicU32,
    space: Lent<'a, K>,
}

impl<K: Kernel> Entered<'_, K> {
    #[inline]
    pub(super) fn vm(&self) -> Result<&Vm<K>, Error> {
        self.space.vm()
    }
}

impl<K: Kernel> Drop for Entered<'_, K> {
    #[inline]
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}
