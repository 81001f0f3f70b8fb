//! The kernel's hypervisor, called with this process's own system calls.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use core::ptr::NonNull;

use hvt_abi::kernel::{RunPage, redox, run_page};
use hvt_core::kernel::{Calls, Errno, Hypervisor, Payload, calls::Page};

use crate::{
    fd::{Fd, Scheme},
    memory::Mapping,
    sys::{self, flags},
};

/// System calls of the current kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel;

/// Mapped run page of a virtual CPU.
pub(crate) struct MappedPage(Mapping);

// SAFETY: a mapping does not move; this one is a page long, which is larger than the structure, and
// is page-aligned. Only the tender's backend has the address.
unsafe impl Page for MappedPage {
    fn start(&self) -> NonNull<RunPage> {
        self.0.start().cast()
    }
}

impl Calls for Kernel {
    type Handle = Fd;
    type Page = MappedPage;

    fn open(&self) -> Result<Fd, Errno> {
        Fd::open(Scheme::Sys, redox::PATH_IN_SYS)
    }

    fn dup(&self, handle: &Fd, name: &str) -> Result<Fd, Errno> {
        handle.dup(name)
    }

    #[inline]
    fn call(&self, handle: &Fd, operation: u64, payload: Payload<'_>) -> Result<usize, Errno> {
        let (start, len, flags) = match payload {
            Payload::None => (core::ptr::null_mut(), 0, 0),
            Payload::Read(bytes) => (bytes.as_ptr().cast_mut(), bytes.len(), flags::CALL_WRITE),
            Payload::Write(bytes) => (bytes.as_mut_ptr(), bytes.len(), flags::CALL_READ),
        };
        // SAFETY: the kernel reads or writes the slice. The creator of the guest guarantees
        // soundness of the guest's accesses to this process's memory.
        unsafe { sys::call(handle.number(), start, len, flags, &[operation]) }
    }

    #[inline]
    fn run(&self, vcpu: &Fd) -> Result<(), Errno> {
        vcpu.read(&mut []).map(drop)
    }

    fn map_page(&self, vcpu: &Fd) -> Result<MappedPage, Errno> {
        let flags = flags::PROT_READ | flags::PROT_WRITE | flags::MAP_SHARED;
        Mapping::new(vcpu.number(), 0, run_page::SIZE, flags).map(MappedPage)
    }
}

/// Opens the hypervisor.
///
/// # Errors
/// Returns the reason that it cannot run guests.
pub(crate) fn open() -> Result<Hypervisor<Kernel>, alloc::string::String> {
    open_with(Kernel)
}

/// Opens the hypervisor with the given calls.
///
/// # Errors
/// Returns the reason that it cannot run guests.
pub(crate) fn open_with<C: Calls>(calls: C) -> Result<Hypervisor<C>, alloc::string::String> {
    use alloc::string::ToString;
    let hypervisor = Hypervisor::open(calls).map_err(|error| error.to_string())?;
    match hypervisor.obstacle().map_err(|error| error.to_string())? {
        None => Ok(hypervisor),
        Some(obstacle) => Err(obstacle.into()),
    }
}
