//! What a kernel serves to monitors: the objects of [`hvt_abi::kernel`], their states, rights and limits.
//!
//! A kernel keeps a table of [`Handle`]s under numbers of its own, and a [`Scheme`]. A monitor's call is
//! [`Handle::open`], [`Handle::create`] or [`Handle::call`]; closing a handle is dropping it, in any order, also when a
//! process dies. [`Caller`] is the process that calls, as long as it does: its rights, its memory, what it sent, and the
//! CPU that it is on. [`Kernel`] is what outlives calls.
//!
//! | module | what it is about |
//! |---|---|
//! | `kernel` | what a kernel and a calling process provide |
//! | `account` | what each user has of VMs and pinned memory |
//! | `vm` | the states of a VM |
//! | `gate` | who may use the guest's memory, and who may change it |
//! | `space` | guest memory: pinned, mapped, given back |
//! | `vcpu` | the states of a vCPU |
//! | `run_page` | the page shared with the monitor |
//!
//! Nothing here waits: an object that is in use answers [`Error::Busy`]. No lock but that of an account, which is held
//! for a few instructions, is ever waited for, so that everything may be called with interrupts disabled; and no call
//! does more work than [`MAP_STEP`] bytes of guest memory ask for, but for the one that lets go of a VM, which gives its
//! pages back one by one.

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

use hvt_abi::kernel::{self as interface, Capabilities, Error, Obstacle, Operation, Technology};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use self::account::Accounts;
pub use self::{
    kernel::{Caller, Kernel, Limits, MAP_STEP},
    vcpu::VcpuObject,
    vm::VmObject,
};
use crate::{host::Hpa, hypervisor::Hypervisor, native::Unsupported};

/// What all handles have in common. A kernel has one.
pub struct Scheme<K: Kernel> {
    kernel: K,
    hypervisor: Result<Hypervisor<K>, Unsupported>,
    limits: Limits,
    accounts: Accounts,
}

impl<K: Kernel> Scheme<K> {
    /// Looks at the machine, which need not be able to run guests.
    ///
    /// # Safety
    /// As for [`Hypervisor::new`].
    pub unsafe fn new(kernel: K, limits: Limits) -> Self {
        // SAFETY: the caller's promise.
        let hypervisor = unsafe { Hypervisor::new(kernel.clone()) };
        Self::assemble(kernel, hypervisor, limits)
    }

    fn assemble(kernel: K, hypervisor: Result<Hypervisor<K>, Unsupported>, limits: Limits) -> Self {
        Self { kernel, hypervisor, limits, accounts: Accounts::default() }
    }

    /// What runs guests on this machine.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn hypervisor(&self) -> Result<&Hypervisor<K>, Error> {
        self.hypervisor.as_ref().map_err(|_| Error::Unsupported)
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

/// What [`Handle::create`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of the hypervisor.
    Vm,
    /// Of a VM.
    Vcpu,
}

/// An object, as a monitor holds it. A clone names the same object.
pub enum Handle<K: Kernel> {
    /// The hypervisor.
    Hypervisor,
    /// A VM.
    Vm(Arc<VmObject<K>>),
    /// A vCPU.
    Vcpu(Arc<VcpuObject<K>>),
}

impl<K: Kernel> Handle<K> {
    /// The hypervisor, for who may have it.
    ///
    /// # Errors
    /// [`Error::NotPermitted`].
    pub fn open(caller: &mut impl Caller<K>) -> Result<Self, Error> {
        if caller.is_superuser() { Ok(Self::Hypervisor) } else { Err(Error::NotPermitted) }
    }

    /// Creates a VM or a vCPU.
    ///
    /// # Errors
    /// [`Error::UnknownOperation`] where this object makes no such thing, [`Error::LimitReached`],
    /// [`Error::OutOfMemory`]; for a VM, [`Error::Unsupported`].
    pub fn create(&self, scheme: &Scheme<K>, kind: Kind, caller: &mut impl Caller<K>) -> Result<Self, Error> {
        match (self, kind) {
            (Self::Hypervisor, Kind::Vm) => {
                let hypervisor = scheme.hypervisor()?;
                let account = scheme.accounts.of(caller.user());
                VmObject::new(&scheme.kernel, hypervisor, &account, scheme.limits).map(|vm| Self::Vm(Arc::new(vm)))
            }
            (Self::Vm(vm), Kind::Vcpu) => VcpuObject::new(vm).map(|vcpu| Self::Vcpu(Arc::new(vcpu))),
            _ => Err(Error::UnknownOperation),
        }
    }

    /// Carries out an operation, by number, and returns what it answers.
    ///
    /// # Errors
    /// [`Error`]; the documentation of the operations says which.
    #[inline]
    pub fn call(&self, scheme: &Scheme<K>, operation: u64, caller: &mut impl Caller<K>) -> Result<u64, Error> {
        // What is asked for most comes first.
        if let (Self::Vcpu(vcpu), RUN) = (self, operation) {
            if caller.payload_len() != 0 {
                return Err(Error::BadArgument);
            }
            return vcpu.run(caller).map(u64::from);
        }
        self.call_other(scheme, operation, caller)
    }

    fn call_other(&self, scheme: &Scheme<K>, operation: u64, caller: &mut impl Caller<K>) -> Result<u64, Error> {
        let operation = Operation::from_number(operation).ok_or(Error::UnknownOperation)?;
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
            _ => Err(Error::UnknownOperation),
        }
    }

    /// The page that a vCPU shares with its monitor; the object keeps a reference to it.
    ///
    /// # Errors
    /// [`Error::UnknownOperation`] where this is no vCPU.
    pub fn run_page(&self) -> Result<Hpa, Error> {
        match self {
            Self::Vcpu(vcpu) => Ok(vcpu.run_page()),
            _ => Err(Error::UnknownOperation),
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

/// No structure goes with the call.
fn nothing<K: Kernel>(caller: &impl Caller<K>) -> Result<(), Error> {
    if caller.payload_len() == 0 { Ok(()) } else { Err(Error::BadArgument) }
}

/// The structure that came with the call.
fn argument<K: Kernel, T: FromBytes + IntoBytes>(caller: &mut impl Caller<K>) -> Result<T, Error> {
    if caller.payload_len() != size_of::<T>() {
        return Err(Error::BadArgument);
    }
    let mut argument = T::new_zeroed();
    caller.read_payload(argument.as_mut_bytes())?;
    Ok(argument)
}

/// Answers with a structure, made only if there is room for it.
fn answer<K: Kernel, C: Caller<K>, T: IntoBytes + Immutable>(
    caller: &mut C,
    make: impl FnOnce(&mut C) -> Result<T, Error>,
) -> Result<u64, Error> {
    if caller.payload_len() != size_of::<T>() {
        return Err(Error::BadArgument);
    }
    let answer = make(caller)?;
    caller.write_payload(answer.as_bytes())?;
    Ok(0)
}
