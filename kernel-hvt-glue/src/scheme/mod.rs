//! What a kernel serves to monitors: the objects of [`hvt_abi::kernel`], their states, rights and limits.
//!
//! A kernel keeps a table of [`Handle`]s under numbers of its own, and a [`Scheme`]. A monitor's call is
//! [`Handle::open`], [`Handle::create`] or [`Handle::call`]; closing a handle is dropping it, in any order, also when a
//! process dies. [`Caller`] is the process that calls, as long as it does: its rights, its memory, what it sent, and the
//! CPU that it is on. [`Kernel`] is what outlives calls.
//!
//! | module | what it is about |
//! |---|---|
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
mod run_page;
mod space;
#[cfg(test)]
mod tests;
mod vcpu;
mod vm;

use alloc::sync::Arc;
use core::fmt;

use hvt_abi::kernel::{self, Capabilities, Error, Exit, Obstacle, Operation, Technology, VcpuState};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use self::account::Accounts;
pub use self::{vcpu::VcpuObject, vm::VmObject};
use crate::{
    Hypervisor, MapError, Unsupported, Vcpu, Vm,
    host::{Host, Hpa},
    x86_64::capabilities,
};

/// The most that one call maps, unmaps or protects: 2 MiB.
pub const MAP_STEP: u64 = 0x20_0000;

/// A kernel that serves monitors.
///
/// # Safety
/// Frames that [`allocate_shared`](Self::allocate_shared) or [`Caller::pin`] returned stay what [`Host`] calls ordinary
/// memory, in the hands of whoever they are shared with and of nobody else, until they have been released as often.
pub unsafe trait Kernel: Host {
    /// A zeroed frame that may be shown to user space, and one reference to it.
    fn allocate_shared(&self) -> Option<Hpa>;

    /// Gives up one reference to a frame; with the last one it returns to the kernel.
    ///
    /// # Safety
    /// The reference is one of [`allocate_shared`](Self::allocate_shared) or [`Caller::pin`], and is not used again.
    unsafe fn release(&self, frame: Hpa);

    /// Makes the CPU with this [`Host::cpu_index`] take an interrupt soon. Where that cannot be done, its clock does it a
    /// little later.
    fn kick(&self, cpu: u32) {
        let _ = cpu;
    }
}

/// The process that calls.
///
/// # Safety
/// [`pin`](Self::pin) returns pages as the trait [`Kernel`] wants them.
pub unsafe trait Caller<K: Kernel> {
    /// Whom VMs and pinned memory are counted for.
    fn user(&mut self) -> u32;

    /// Whether it may have the hypervisor.
    fn is_superuser(&mut self) -> bool;

    /// Length in bytes of the structure that came with the call.
    fn payload_len(&self) -> usize;

    /// Copies that structure; `to` is as long as it is.
    ///
    /// # Errors
    /// [`Error::BadAddress`].
    fn read_payload(&mut self, to: &mut [u8]) -> Result<(), Error>;

    /// Copies to where that structure is; `from` is as long as it is.
    ///
    /// # Errors
    /// [`Error::BadAddress`].
    fn write_payload(&mut self, from: &[u8]) -> Result<(), Error>;

    /// Takes a reference to the page at a virtual address of the caller's, a multiple of [`FRAME_SIZE`](crate::FRAME_SIZE). The page is
    /// private, writable, anonymous memory that is there and will not be exchanged for another one.
    ///
    /// # Errors
    /// [`Error::NotOwnMemory`], [`Error::OutOfMemory`].
    fn pin(&mut self, address: u64) -> Result<Hpa, Error>;

    /// Runs the guest until it exits ([`Vcpu::run`] on the CPU of the caller).
    ///
    /// # Errors
    /// [`Error::CpuUnavailable`], [`Error::OutOfMemory`].
    fn run(&mut self, vcpu: &mut Vcpu<K>, vm: &Vm<K>) -> Result<Exit, Error>;

    /// The guest's registers ([`Bound::state`](crate::Bound::state) on the CPU of the caller).
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    fn state(&mut self, vcpu: &mut Vcpu<K>, vm: &Vm<K>) -> Result<VcpuState, Error>;
}

/// What each user may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory that guests have, in bytes.
    pub pinned: u64,
    /// VMs.
    pub vms: u32,
    /// vCPUs of one VM.
    pub vcpus: u32,
}

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
        let (technology, obstacle, address_bits, execute_only) = match &self.hypervisor {
            Ok(hypervisor) => match hypervisor.capabilities() {
                capabilities::Capabilities::Svm(svm) => {
                    (Technology::Svm, Obstacle::None, svm.physical_address_bits, false)
                }
                capabilities::Capabilities::Vmx(vmx) => {
                    (Technology::Vmx, Obstacle::None, vmx.physical_address_bits, vmx.execute_only)
                }
            },
            Err(unsupported) => (Technology::None, obstacle(unsupported), 0, false),
        };
        let (pinned, vms) = self.accounts.used(user);
        Capabilities {
            version: kernel::VERSION,
            technology: technology as u32,
            obstacle: obstacle as u32,
            address_bits,
            map_step: MAP_STEP,
            pinned_limit: self.limits.pinned,
            pinned,
            vm_limit: self.limits.vms,
            vms,
            vcpu_limit: self.limits.vcpus,
            execute_only: execute_only.into(),
            ..Capabilities::default()
        }
    }
}

fn obstacle(unsupported: &Unsupported) -> Obstacle {
    match unsupported {
        Unsupported::NoExtension => Obstacle::NoExtension,
        Unsupported::DisabledByFirmware { .. } => Obstacle::DisabledByFirmware,
        Unsupported::Missing { .. } => Obstacle::MissingFeature,
        Unsupported::NoExecuteDisabled => Obstacle::Kernel,
        Unsupported::OutOfMemory(_) => Obstacle::OutOfMemory,
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

/// An error of this crate in the terms of the interface.
fn refusal(error: impl Into<MapError>) -> Error {
    match error.into() {
        MapError::Unaligned(_) => Error::BadArgument,
        MapError::NotAFrame(_) => Error::NotOwnMemory,
        MapError::OutOfRange(_) => Error::OutOfRange,
        MapError::AlreadyMapped(_) => Error::AlreadyMapped,
        MapError::NotMapped(_) => Error::NotMapped,
        MapError::OutOfMemory(_) => Error::OutOfMemory,
    }
}
