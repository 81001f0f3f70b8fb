//! Kernel side of the monitor interface: the objects of [`hvt_abi::kernel`], with their states,
//! rights and limits.
//!
//! A kernel keeps a [`Scheme`], and a table that assigns numbers to [`Handle`]s. A monitor's call
//! maps to [`Handle::open`], [`Handle::create`] or [`Handle::call`]. To close a handle, the kernel
//! drops it. Handles may be closed in any order, including when a process dies.
//!
//! [`Caller`] is the calling process for the duration of a call: its rights, its memory, the data
//! that it passed, and its CPU. [`Kernel`] is the part of the kernel that outlives calls.
//!
//! | module | contents |
//! |---|---|
//! | `kernel` | interface to the kernel and to a calling process |
//! | `account` | accounting of VMs and pinned memory per user |
//! | `vm` | states of a VM |
//! | `gate` | lock for a VM's memory |
//! | `space` | guest memory: pinning, mapping, release |
//! | `vcpu` | states of a vCPU |
//! | `run_page` | page shared with the monitor |
//!
//! No call waits for an object: a call on an object that is in use returns [`KernelError::Busy`]. The
//! only lock that a call waits for is an account's, which is held for a few instructions. So every
//! function may be called with interrupts disabled. The work of a call is limited to [`MAP_STEP`]
//! bytes of guest memory. The exception is the call that releases a VM, which releases the VM's
//! pages one by one.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

mod account;
mod gate;
mod kernel;
mod run_page;
mod space;
#[cfg(test)]
mod tests;
mod vcpu;
mod vm;

use alloc::sync::Arc;
use core::fmt;

use hvt_abi::kernel::{self as interface, Capabilities, KernelError, Obstacle, Operation, Technology};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use self::account::Accounts;
pub use self::{
    kernel::{Caller, Kernel, Limits, MAP_STEP},
    vcpu::VcpuObject,
    vm::VmObject,
};
use crate::{host::Hpa, hypervisor::Hypervisor, native::Unsupported};

/// State shared by all handles. A kernel has one.
pub struct Scheme<K: Kernel> {
    kernel: K,
    hypervisor: Result<Hypervisor<K>, Unsupported>,
    limits: Limits,
    accounts: Accounts,
}

impl<K: Kernel> Scheme<K> {
    /// Detects the machine's features. The machine need not be able to run guests.
    ///
    /// # Safety
    /// As for [`Hypervisor::new`].
    pub unsafe fn new(kernel: K, limits: Limits) -> Self {
        // SAFETY: guaranteed by the caller.
        let hypervisor = unsafe { Hypervisor::new(kernel.clone()) };
        Self::assemble(kernel, hypervisor, limits)
    }

    fn assemble(kernel: K, hypervisor: Result<Hypervisor<K>, Unsupported>, limits: Limits) -> Self {
        Self { kernel, hypervisor, limits, accounts: Accounts::default() }
    }

    /// Returns the hypervisor of this machine.
    ///
    /// # Errors
    /// Returns [`KernelError::Unsupported`] if this machine cannot run guests.
    pub fn hypervisor(&self) -> Result<&Hypervisor<K>, KernelError> {
        self.hypervisor.as_ref().map_err(|_| KernelError::Unsupported)
    }

    fn capabilities(&self, user: u32) -> Capabilities {
        let (extension, obstacle) = match &self.hypervisor {
            Ok(hypervisor) => (Some(hypervisor.capabilities()), Obstacle::None),
            Err(unsupported) => (None, unsupported.obstacle()),
        };
        let technology = extension.map_or(Technology::None, |extension| extension.technology);
        let (pinned, vms) = self.accounts.used(user);
        Capabilities {
            version: interface::VERSION,
            technology: technology as u32,
            obstacle: obstacle as u32,
            address_bits: extension.map_or(0, |extension| extension.address_bits),
            map_step: MAP_STEP,
            pinned_limit: self.limits.pinned,
            pinned,
            vm_limit: self.limits.vms,
            vms,
            vcpu_limit: self.limits.vcpus,
            execute_only: extension.is_some_and(|extension| extension.execute_only).into(),
            ..Capabilities::default()
        }
    }
}

impl<K: Kernel> fmt::Debug for Scheme<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheme")
            .field("hypervisor", &self.hypervisor)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Type of object for [`Handle::create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A VM, created from the hypervisor.
    Vm,
    /// A vCPU, created from a VM.
    Vcpu,
}

/// Monitor's reference to an object. A clone refers to the same object.
pub enum Handle<K: Kernel> {
    /// The hypervisor.
    Hypervisor,
    /// A VM.
    Vm(Arc<VmObject<K>>),
    /// A vCPU.
    Vcpu(Arc<VcpuObject<K>>),
}

impl<K: Kernel> Handle<K> {
    /// Opens the hypervisor.
    ///
    /// # Errors
    /// Returns [`KernelError::NotPermitted`] if the caller is not a superuser.
    pub fn open(caller: &mut impl Caller<K>) -> Result<Self, KernelError> {
        if caller.is_superuser() { Ok(Self::Hypervisor) } else { Err(KernelError::NotPermitted) }
    }

    /// Creates a VM or a vCPU.
    ///
    /// # Errors
    /// - [`KernelError::UnknownOperation`] if this object cannot create an object of this kind.
    /// - [`KernelError::LimitReached`] if the user's limit is reached.
    /// - [`KernelError::OutOfMemory`] if the kernel has no memory.
    /// - [`KernelError::Unsupported`] for a VM, if this machine cannot run guests.
    pub fn create(&self, scheme: &Scheme<K>, kind: Kind, caller: &mut impl Caller<K>) -> Result<Self, KernelError> {
        match (self, kind) {
            (Self::Hypervisor, Kind::Vm) => {
                let hypervisor = scheme.hypervisor()?;
                let account = scheme.accounts.of(caller.user());
                VmObject::new(&scheme.kernel, hypervisor, &account, scheme.limits).map(|vm| Self::Vm(Arc::new(vm)))
            }
            (Self::Vm(vm), Kind::Vcpu) => VcpuObject::new(vm).map(|vcpu| Self::Vcpu(Arc::new(vcpu))),
            _ => Err(KernelError::UnknownOperation),
        }
    }

    /// Executes an operation, by number, and returns its result.
    ///
    /// # Errors
    /// Returns the [`KernelError`] that the documentation of the operation specifies.
    #[inline]
    pub fn call(&self, scheme: &Scheme<K>, operation: u64, caller: &mut impl Caller<K>) -> Result<u64, KernelError> {
        // The most frequent operation is handled first.
        if let (Self::Vcpu(vcpu), RUN) = (self, operation) {
            if caller.payload_len() != 0 {
                return Err(KernelError::BadArgument);
            }
            return vcpu.run(caller).map(u64::from);
        }
        self.call_other(scheme, operation, caller)
    }

    fn call_other(&self, scheme: &Scheme<K>, operation: u64, caller: &mut impl Caller<K>) -> Result<u64, KernelError> {
        let operation = Operation::from_number(operation).ok_or(KernelError::UnknownOperation)?;
        match (self, operation) {
            (Self::Hypervisor, Operation::GetCapabilities) => {
                answer(caller, |caller| Ok(scheme.capabilities(caller.user())))
            }
            (Self::Vm(vm), Operation::Map) => {
                let map = argument(caller)?;
                vm.map(&map, caller)
            }
            (Self::Vm(vm), Operation::Unmap) => vm.unmap(&argument(caller)?),
            (Self::Vm(vm), Operation::Protect) => vm.protect(&argument(caller)?),
            (Self::Vm(vm), Operation::Pause) => nothing(caller).and_then(|()| vm.pause()),
            (Self::Vm(vm), Operation::Resume) => nothing(caller).and_then(|()| vm.resume()),
            (Self::Vm(vm), Operation::Destroy) => nothing(caller).and_then(|()| vm.destroy()),
            (Self::Vcpu(vcpu), Operation::Interrupt) => nothing(caller).map(|()| vcpu.interrupt()),
            (Self::Vcpu(vcpu), Operation::GetState) => answer(caller, |caller| vcpu.state(caller)),
            (Self::Vcpu(vcpu), Operation::SetState) => vcpu.set_state(&argument(caller)?),
            _ => Err(KernelError::UnknownOperation),
        }
    }

    /// Returns the page that a vCPU shares with its monitor. The object keeps a reference to it.
    ///
    /// # Errors
    /// Returns [`KernelError::UnknownOperation`] if this object is not a vCPU.
    pub fn run_page(&self) -> Result<Hpa, KernelError> {
        match self {
            Self::Vcpu(vcpu) => Ok(vcpu.run_page()),
            _ => Err(KernelError::UnknownOperation),
        }
    }
}

/// [`Operation::Run`], as a pattern.
const RUN: u64 = Operation::Run as u64;

impl<K: Kernel> Clone for Handle<K> {
    #[inline]
    fn clone(&self) -> Self {
        match self {
            Self::Hypervisor => Self::Hypervisor,
            Self::Vm(vm) => Self::Vm(vm.clone()),
            Self::Vcpu(vcpu) => Self::Vcpu(vcpu.clone()),
        }
    }
}

impl<K: Kernel> fmt::Debug for Handle<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hypervisor => "Hypervisor",
            Self::Vm(_) => "Vm",
            Self::Vcpu(_) => "Vcpu",
        })
    }
}

/// Checks that the call has no structure.
fn nothing<K: Kernel>(caller: &impl Caller<K>) -> Result<(), KernelError> {
    if caller.payload_len() == 0 { Ok(()) } else { Err(KernelError::BadArgument) }
}

/// Returns the structure passed with the call.
fn argument<K: Kernel, T: FromBytes + IntoBytes>(caller: &mut impl Caller<K>) -> Result<T, KernelError> {
    if caller.payload_len() != size_of::<T>() {
        return Err(KernelError::BadArgument);
    }
    let mut argument = T::new_zeroed();
    caller.read_payload(argument.as_mut_bytes())?;
    Ok(argument)
}

/// Writes a structure as the result. `make` is called only if the length matches.
fn answer<K: Kernel, C: Caller<K>, T: IntoBytes + Immutable>(
    caller: &mut C,
    make: impl FnOnce(&mut C) -> Result<T, KernelError>,
) -> Result<u64, KernelError> {
    if caller.payload_len() != size_of::<T>() {
        return Err(KernelError::BadArgument);
    }
    let answer = make(caller)?;
    caller.write_payload(answer.as_bytes())?;
    Ok(0)
}
