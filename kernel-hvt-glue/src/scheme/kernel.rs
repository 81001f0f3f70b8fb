//! Interface to a kernel that serves monitors, and to the calling process.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

use hvt_abi::kernel::{Exit, KernelError, VcpuState};

use crate::{
    host::{Host, Hpa},
    paging::MapError,
    vcpu::Vcpu,
    vm::Vm,
};

/// Maximum size that one call maps, unmaps or protects: 2 MiB.
pub const MAP_STEP: u64 = 0x20_0000;

/// Kernel that serves monitors.
///
/// # Safety
/// A frame that [`allocate_shared`](Self::allocate_shared) or [`Caller::pin`] returned must stay
/// ordinary memory, as defined by [`Host`], until it has been released as often as it was returned.
/// During that time only the parties that share the frame may use it.
pub unsafe trait Kernel: Host {
    /// Allocates a zeroed frame that may be mapped into user space, and returns one reference to
    /// it. Returns `None` if no frame is free.
    fn allocate_shared(&self) -> Option<Hpa>;

    /// Releases one reference to a frame. With the last reference the frame returns to the kernel.
    ///
    /// # Safety
    /// The reference must come from [`allocate_shared`](Self::allocate_shared) or [`Caller::pin`],
    /// and must not be used again.
    unsafe fn release(&self, frame: Hpa);

    /// Interrupts the CPU with this [`Host::cpu_index`] soon. The default implementation does
    /// nothing: the CPU's next clock interrupt has the same effect a little later.
    fn kick(&self, cpu: u32) {
        let _ = cpu;
    }
}

/// Calling process.
///
/// # Safety
/// [`pin`](Self::pin) must return pages that meet the requirements of the trait [`Kernel`].
pub unsafe trait Caller<K: Kernel> {
    /// Returns the user to whom VMs and pinned memory are charged.
    fn user(&mut self) -> u32;

    /// Returns `true` if the process may open the hypervisor.
    fn is_superuser(&mut self) -> bool;

    /// Returns the length in bytes of the structure passed with the call.
    fn payload_len(&self) -> usize;

    /// Copies the structure passed with the call to `to`, which has the length of the structure.
    ///
    /// # Errors
    /// Returns [`KernelError::BadAddress`] if the process has no readable memory at the structure's
    /// address.
    fn read_payload(&mut self, to: &mut [u8]) -> Result<(), KernelError>;

    /// Copies `from`, which has the length of the structure, to the structure's address.
    ///
    /// # Errors
    /// Returns [`KernelError::BadAddress`] if the process has no writable memory at the structure's
    /// address.
    fn write_payload(&mut self, from: &[u8]) -> Result<(), KernelError>;

    /// Takes a reference to the page at a virtual address of the caller, which must be a multiple
    /// of [`FRAME_SIZE`](crate::FRAME_SIZE). The page must be private, writable, anonymous memory
    /// that is present and will not be replaced by another page.
    ///
    /// # Errors
    /// Returns [`KernelError::NotOwnMemory`] if the page is of another kind, or [`KernelError::OutOfMemory`] if
    /// the kernel has no memory for the operation.
    fn pin(&mut self, address: u64) -> Result<Hpa, KernelError>;

    /// Runs the guest until it exits ([`Vcpu::run`] on the caller's CPU).
    ///
    /// # Errors
    /// Returns [`KernelError::CpuUnavailable`] if the caller's CPU cannot run guests, or
    /// [`KernelError::OutOfMemory`] if the kernel has no memory for enabling it.
    fn run(&mut self, vcpu: &mut Vcpu<K>, vm: &Vm<K>) -> Result<Exit, KernelError>;

    /// Returns the guest's registers ([`Bound::state`](crate::Bound::state) on the caller's CPU).
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    fn state(&mut self, vcpu: &mut Vcpu<K>, vm: &Vm<K>) -> Result<VcpuState, KernelError>;
}

/// Limits per user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum guest memory in bytes.
    pub pinned: u64,
    /// Maximum number of VMs.
    pub vms: u32,
    /// Maximum number of vCPUs per VM.
    pub vcpus: u32,
}

/// Converts an error of this crate to the interface's type.
pub(super) fn refusal(error: impl Into<MapError>) -> KernelError {
    match error.into() {
        MapError::Unaligned(_) => KernelError::BadArgument,
        MapError::NotAFrame(_) => KernelError::NotOwnMemory,
        MapError::OutOfRange(_) => KernelError::OutOfRange,
        MapError::AlreadyMapped(_) => KernelError::AlreadyMapped,
        MapError::NotMapped(_) => KernelError::NotMapped,
        MapError::OutOfMemory(_) => KernelError::OutOfMemory,
    }
}
