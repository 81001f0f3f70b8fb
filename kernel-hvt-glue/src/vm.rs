//! A guest's address space.

use hvt_abi::{Gpa, GuestRange, x86_64::EntryState};

use crate::{
    Hpa, Vcpu,
    host::{Host, OutOfMemory},
    hypervisor::Hypervisor,
    paging::{MapError, Permissions, Translation},
};

/// The monitor named guest memory that the guest does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest memory at {0} is not mapped")]
pub struct AccessError(pub Gpa);

/// A virtual machine: an address space and the memory in it.
pub struct Vm<H: Host> {
    host: H,
}

impl<H: Host> Vm<H> {
    /// An empty address space.
    ///
    /// # Errors
    /// No frame for its first table.
    pub fn new(hypervisor: &Hypervisor<H>) -> Result<Self, OutOfMemory> {
        let _ = hypervisor;
        Err(OutOfMemory)
    }

    /// Gives the guest zeroed memory of the kernel's at `range`, in pages as large as alignment and the kernel's supply
    /// of contiguous frames allow. The frames return to the kernel when they are unmapped or the `Vm` is dropped.
    ///
    /// # Errors
    /// [`MapError`]; nothing was changed.
    pub fn allocate(&mut self, range: GuestRange, permissions: Permissions) -> Result<(), MapError> {
        let _ = (&self.host, permissions);
        Err(MapError::OutOfRange(range.start()))
    }

    /// Shows the guest, at `range`, memory that belongs to somebody else, physically contiguous from `hpa` on.
    ///
    /// # Errors
    /// [`MapError`]; nothing was changed.
    ///
    /// # Safety
    /// The memory is ordinary write-back memory that [`Host::phys_to_virt`] shows; guest and monitor may read it, and
    /// write it if `permissions` say so, until it is unmapped or the `Vm` is dropped; no Rust reference to it exists
    /// meanwhile.
    pub unsafe fn map(&mut self, range: GuestRange, hpa: Hpa, permissions: Permissions) -> Result<(), MapError> {
        let _ = (hpa, permissions);
        Err(MapError::OutOfRange(range.start()))
    }

    /// Changes what the guest may do in `range`, all of which must be mapped.
    ///
    /// # Errors
    /// [`MapError`]; nothing was changed.
    pub fn protect(&mut self, range: GuestRange, permissions: Permissions) -> Result<(), MapError> {
        let _ = permissions;
        Err(MapError::OutOfRange(range.start()))
    }

    /// Takes the memory in `range` away from the guest; what is not mapped stays so.
    ///
    /// # Errors
    /// [`MapError`]; nothing was changed.
    pub fn unmap(&mut self, range: GuestRange) -> Result<(), MapError> {
        Err(MapError::OutOfRange(range.start()))
    }

    /// Where `gpa` leads, if it is mapped.
    #[must_use]
    pub fn translate(&self, gpa: Gpa) -> Option<Translation> {
        let _ = gpa;
        None
    }

    /// Copies guest memory at `gpa` out, whatever the guest's permissions there.
    ///
    /// # Errors
    /// The first address that is not mapped; the bytes before it have been copied.
    pub fn read(&self, gpa: Gpa, to: &mut [u8]) -> Result<(), AccessError> {
        let _ = to;
        Err(AccessError(gpa))
    }

    /// Copies `from` into guest memory at `gpa`, whatever the guest's permissions there.
    ///
    /// # Errors
    /// The first address that is not mapped; the bytes before it have been copied.
    pub fn write(&self, gpa: Gpa, from: &[u8]) -> Result<(), AccessError> {
        let _ = from;
        Err(AccessError(gpa))
    }

    /// Zeroes guest memory, whatever the guest's permissions there.
    ///
    /// # Errors
    /// The first address that is not mapped; the bytes before it are zero.
    pub fn zero(&self, range: GuestRange) -> Result<(), AccessError> {
        Err(AccessError(range.start()))
    }

    /// A virtual CPU that will start in `entry`.
    ///
    /// # Errors
    /// No frame for its control structure.
    pub fn create_vcpu(&self, entry: &EntryState) -> Result<Vcpu<H>, OutOfMemory> {
        let _ = entry;
        Err(OutOfMemory)
    }
}
