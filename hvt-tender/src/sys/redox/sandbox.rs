//! The sandbox on Redox, which has none yet: a tender that asks for it does not run.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use crate::cancel::CancelToken;
use crate::descriptor::Descriptor;
use crate::device::HelperThread;

pub use crate::config::{Identity, User};

/// The tender can confine itself on this operating system.
pub(crate) const IS_AVAILABLE: bool = false;

/// Does nothing: no system call is denied.
#[expect(clippy::unnecessary_wraps, reason = "on Linux the handler of a signal can be refused")]
pub(crate) fn explain(_program: &'static str) -> io::Result<()> {
    Ok(())
}

/// Request for a sandbox.
#[derive(Clone, Debug, Default)]
pub struct Sandbox(());

/// A sandbox cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox is not available on Redox: run without it")]
pub struct SandboxError(());

/// The tender cannot change its user or root directory.
#[derive(Debug, thiserror::Error)]
#[error("--user and --chroot are not available on Redox: leave them out")]
pub struct IdentityError(());

/// System calls that a thread in a sandbox makes.
#[derive(Debug)]
pub struct Calls(());

impl Sandbox {
    /// A sandbox that allows what the guest's devices and backend use.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows this use of a descriptor as well.
    #[must_use]
    pub fn descriptor(self, _: Descriptor) -> Self {
        self
    }

    /// Fails.
    pub(crate) fn drop_rights(&self, _: &[Descriptor], _: Option<BorrowedFd<'_>>) -> Result<(), SandboxError> {
        Err(SandboxError(()))
    }

    pub(crate) fn calls(&self, _: &CancelToken) -> Calls {
        Calls(())
    }

    /// Fails.
    pub(crate) fn confine(&self, _: Calls) -> Result<(), SandboxError> {
        Err(SandboxError(()))
    }

    pub(crate) fn confine_helper(&self, _: &dyn HelperThread, _: &CancelToken) -> Result<(), SandboxError> {
        Err(SandboxError(()))
    }
}

impl Calls {
    pub(crate) fn allow_uses(&mut self, _: impl IntoIterator<Item = Descriptor>) {}

    pub(crate) fn allow_new_file(&mut self, _: BorrowedFd<'_>, _: libc::c_int) {}

    pub(crate) fn allow_connection(&mut self, _: RawFd, _: RawFd, _: RawFd) {}
}

impl Identity {
    /// Fails for another identity than the present one.
    pub(crate) fn drop_privileges(&self) -> Result<(), IdentityError> {
        if *self == Self::default() { Ok(()) } else { Err(IdentityError(())) }
    }
}
