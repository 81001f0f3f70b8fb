//! Backends of Redox: the kernel's hypervisor, called through the C library.

#![expect(unsafe_code, reason = "memory that the guest changes at any time")]

use std::ptr::NonNull;

use hvt_abi::kernel::{RunPage, redox, run_page};
use libredox::Fd;
use libredox::call::{self, Call, MmapArgs};
use syscall::CallFlags;

use hvt_abi::native::EntryState;
use hvt_core::kernel::{Calls, Errno, Page, Payload};

use crate::backend::redox::Redox;
use crate::backend::{BackendError, CancelToken, Kind, Opened, Running};
use crate::config::BackendChoice;
use crate::memory::{MapError, MappedMemory, MemoryMap};

/// The backends.
pub(crate) const KINDS: &[Kind] = &[Kind {
    choice: BackendChoice::Redox,
    is_fast: || true,
    counts_cycles: false,
    open: || Ok(Box::new(Redox::open(System)?)),
}];

impl Opened for Redox<System> {
    fn name(&self) -> &'static str {
        "redox"
    }

    fn for_debugger(self: Box<Self>) -> Box<dyn Opened> {
        self
    }

    fn memory(&self, size: u64) -> Result<MappedMemory, MapError> {
        MappedMemory::anonymous(size)
    }

    fn start(
        self: Box<Self>,
        memory: MappedMemory,
        memory_map: &MemoryMap,
        entry: &EntryState,
        stop: &CancelToken,
    ) -> Result<Box<dyn Running>, BackendError> {
        Ok(Box::new((*self).start(memory, memory_map, entry, stop)?))
    }
}

/// Kernel of the running system.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct System;

/// Mapped run page of a virtual CPU.
pub(crate) struct MappedPage(NonNull<RunPage>);

// SAFETY: a mapping keeps its address for all threads.
unsafe impl Send for MappedPage {}

// SAFETY: the mapping is aligned and a page long, which is more than the structure. Only the
// backend has the address.
unsafe impl Page for MappedPage {
    fn start(&self) -> NonNull<RunPage> {
        self.0
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        // SAFETY: no other copy of the address is left.
        let _ = unsafe { call::munmap(self.0.as_ptr().cast(), run_page::SIZE) };
    }
}

impl Calls for System {
    type Handle = Fd;
    type Page = MappedPage;

    fn open(&self) -> Result<Fd, Errno> {
        let flags = libredox::flag::O_RDWR | libredox::flag::O_CLOEXEC;
        let by_name = Fd::open(redox::PATH, flags, 0);
        by_name.or_else(|_| Fd::open(&format!("/scheme/sys/{}", redox::PATH_IN_SYS), flags, 0)).map_err(errno)
    }

    fn dup(&self, handle: &Fd, name: &str) -> Result<Fd, Errno> {
        handle.dup(name.as_bytes()).map(Fd::new).map_err(errno)
    }

    fn call(&self, handle: &Fd, operation: u64, payload: Payload<'_>) -> Result<usize, Errno> {
        let (start, len, flags) = match payload {
            Payload::None => (std::ptr::null_mut(), 0, CallFlags::empty()),
            Payload::Read(bytes) => (bytes.as_ptr().cast_mut(), bytes.len(), CallFlags::WRITE),
            Payload::Write(bytes) => (bytes.as_mut_ptr(), bytes.len(), CallFlags::READ),
        };
        // SAFETY: the kernel reads or writes the slice. The creator of the guest guarantees the
        // memory that the guest may access.
        unsafe { handle.raw().raw_call(start, len, flags, &[operation]) }.map_err(errno)
    }

    fn run(&self, vcpu: &Fd) -> Result<(), Errno> {
        vcpu.read(&mut []).map(drop).map_err(errno)
    }

    fn map_page(&self, vcpu: &Fd) -> Result<MappedPage, Errno> {
        let prot = libredox::flag::PROT_READ | libredox::flag::PROT_WRITE;
        let arguments = MmapArgs {
            addr: std::ptr::null_mut(),
            length: run_page::SIZE,
            prot,
            flags: libredox::flag::MAP_SHARED,
            fd: vcpu.raw(),
            offset: 0,
        };
        // SAFETY: the kernel chooses the address, so that no existing mapping is affected.
        let start = unsafe { call::mmap(arguments) }.map_err(errno)?;
        NonNull::new(start.cast()).map(MappedPage).ok_or(Errno(libc::EFAULT))
    }
}

fn errno(error: libredox::error::Error) -> Errno {
    Errno(error.errno())
}
