//! What is asked of the kernel.

use core::fmt;
use core::ptr::NonNull;

use hvt_abi::kernel::{self, RunPage};

/// The calls of a Redox kernel that a monitor needs: implemented over libc on a whole Redox, over system calls in a first
/// process, and by a kernel that is none in tests.
pub trait Calls {
    /// An open descriptor, closed when dropped.
    type Handle;
    /// A run page of the kernel's, unmapped when dropped.
    type Page: Page;

    /// Opens the hypervisor.
    ///
    /// # Errors
    /// The kernel's.
    fn open(&self) -> Result<Self::Handle, Errno>;

    /// Makes a new object of `handle`: `dup` with this name.
    ///
    /// # Errors
    /// The kernel's.
    fn dup(&self, handle: &Self::Handle, name: &str) -> Result<Self::Handle, Errno>;

    /// One operation: `SYS_CALL` with this metadata word.
    ///
    /// # Errors
    /// The kernel's.
    fn call(&self, handle: &Self::Handle, operation: u64, payload: Payload<'_>) -> Result<usize, Errno>;

    /// Runs a virtual CPU until it exits: [`Operation::Run`](kernel::Operation::Run), the operation that has to be fast. A
    /// `read` of no bytes is that as well, and the shortest way into the kernel (shorter still with `SYS_READ2`).
    ///
    /// # Errors
    /// The kernel's.
    fn run(&self, vcpu: &Self::Handle) -> Result<(), Errno>;

    /// Maps the run page of a virtual CPU.
    ///
    /// # Errors
    /// The kernel's.
    fn map_page(&self, vcpu: &Self::Handle) -> Result<Self::Page, Errno>;
}

/// A mapped run page.
///
/// # Safety
/// `start` returns the same address for as long as the page lives. There it is readable and writable, aligned, and
/// accessed through volatile accesses alone: the kernel writes it.
pub unsafe trait Page {
    /// Where it is.
    fn start(&self) -> NonNull<RunPage>;
}

/// What goes with an operation.
#[derive(Debug)]
pub enum Payload<'a> {
    /// Nothing.
    None,
    /// A structure that the kernel reads.
    Read(&'a [u8]),
    /// A structure that the kernel writes.
    Write(&'a mut [u8]),
}

/// The number of an error of the kernel's (`errno`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// What it means to the hypervisor, if it is one of its errors.
    #[must_use]
    pub const fn meaning(self) -> Option<kernel::Error> {
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

/// The kernel did not do what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {errno}")]
pub struct Refused {
    /// What was being done.
    pub what: &'static str,
    /// What the kernel said.
    pub errno: Errno,
}

impl Refused {
    pub(super) const fn new(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self { what, errno }
    }
}
