//! System calls to the kernel.

#![expect(unsafe_code, reason = "pages that this process shares with a kernel")]

use core::fmt;
use core::ptr::NonNull;

use hvt_abi::kernel::{self, RunPage};

/// System calls to a Redox kernel that a monitor needs. Implemented over libc on a complete Redox,
/// over raw system calls in an init process, and by a fake kernel in tests.
pub trait Calls {
    /// Open descriptor, closed when dropped.
    type Handle;
    /// Run page shared with the kernel, unmapped when dropped.
    type Page: Page;

    /// Opens the hypervisor.
    ///
    /// # Errors
    /// Returns the kernel's [`Errno`].
    fn open(&self) -> Result<Self::Handle, Errno>;

    /// Creates an object of `handle`: `dup` with this name.
    ///
    /// # Errors
    /// Returns the kernel's [`Errno`].
    fn dup(&self, handle: &Self::Handle, name: &str) -> Result<Self::Handle, Errno>;

    /// Performs one operation: `SYS_CALL` with this metadata word.
    ///
    /// # Errors
    /// Returns the kernel's [`Errno`].
    fn call(&self, handle: &Self::Handle, operation: u64, payload: Payload<'_>) -> Result<usize, Errno>;

    /// Runs a virtual CPU until it exits: [`Operation::Run`](kernel::Operation::Run), the one
    /// operation that must be fast. A `read` of no bytes does the same and is the shortest way into
    /// the kernel (shorter still with `SYS_READ2`).
    ///
    /// # Errors
    /// Returns the kernel's [`Errno`].
    fn run(&self, vcpu: &Self::Handle) -> Result<(), Errno>;

    /// Maps the run page of a virtual CPU.
    ///
    /// # Errors
    /// Returns the kernel's [`Errno`].
    fn map_page(&self, vcpu: &Self::Handle) -> Result<Self::Page, Errno>;
}

/// A mapped run page.
///
/// # Safety
/// # Safety
/// `start` must return the same address for as long as the page lives. The page at this address
/// must be readable, writable and aligned, and must only be accessed through volatile accesses,
/// because the kernel writes it.
pub unsafe trait Page {
    /// Address of the page.
    fn start(&self) -> NonNull<RunPage>;
}

/// Data that goes with an operation.
#[derive(Debug)]
pub enum Payload<'a> {
    /// Nothing.
    None,
    /// A structure that the kernel reads.
    Read(&'a [u8]),
    /// A structure that the kernel writes.
    Write(&'a mut [u8]),
}

/// Error number of the kernel (`errno`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Returns the meaning of the number to the hypervisor, if it is one of its errors.
    #[must_use]
    pub const fn meaning(self) -> Option<kernel::KernelError> {
        kernel::redox::error(self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.meaning() {
            Some(error) => error.fmt(f),
            None => write!(f, "error {} of the kernel", self.0),
        }
    }
}

/// Failed request to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {errno}")]
pub struct Refused {
    /// Description of the request.
    pub what: &'static str,
    /// Error that the kernel returned.
    pub errno: Errno,
}

impl Refused {
    /// Returns the conversion of an error to a failed request that is described by `what`.
    pub const fn new(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self { what, errno }
    }
}
