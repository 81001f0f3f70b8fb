//! What a kernel that serves monitors provides, and a process that calls.

use hvt_abi::kernel::{Error, Exit, VcpuState};

use crate::{
    host::{Host, Hpa},
    paging::MapError,
    vcpu::Vcpu,
    vm::Vm,
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

/// An error of this crate in the terms of the interface.
pub(super) fn refusal(error: impl Into<MapError>) -> Error {
    match error.into() {
        MapError::Unaligned(_) => Error::BadArgument,
        MapError::NotAFrame(_) => Error::NotOwnMemory,
        MapError::OutOfRange(_) => Error::OutOfRange,
        MapError::AlreadyMapped(_) => Error::AlreadyMapped,
        MapError::NotMapped(_) => Error::NotMapped,
        MapError::OutOfMemory(_) => Error::OutOfMemory,
    }
}
