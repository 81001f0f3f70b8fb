//! What a tender gives up before its guest's first instruction, so that a guest which gets hold of it has got little.
//!
//! In this order, for the thread that runs the guest:
//!
//! 1. [`Identity`]: another user, another root directory. All is open by now but the guest is not yet made, so that the
//!    child of the process backend is that user's too.
//! 2. The thread's rights: `no_new_privs`, all capabilities (effective, permitted, inheritable, ambient, bounding), and
//!    with landlock, where the kernel has it, the file system, TCP, and other processes' signals and abstract sockets.
//! 3. Once everything else is done, a seccomp filter: [`Calls`]. It knows which descriptor a call may be about and which
//!    request an `ioctl` may make, because each device, backend and helper says what it does with which.
//!
//! All of 2 and 3 is a matter of single threads: threads made after 2 inherit it, and each gets a filter of its own that
//! allows what this thread does. Threads that devices have made before do 2 and 3 when they are told to, just before the
//! guest's does 3. A call that is not allowed is not made; the process ends with SIGSYS, and says which
//! call it was if [`explain`] was called.
//!
//! The command line does it always, unless it is told not to, and closes what descriptors it has inherited at its very
//! start. For the library a [`Sandbox`] is to be asked for ([`Unikernel::sandbox`](crate::Unikernel::sandbox)), because
//! the thread that runs the guest never gets its rights back: take [`spawn`](crate::Unikernel::spawn), or a thread made
//! for it. Devices that are not of this crate say what they use with `descriptors` of their traits. What lives in memory
//! and wakes others (network ports, virtual time) cannot be used in a sandbox.

mod calls;
mod common;
mod condition;
mod denial;
mod identity;
mod order;
pub(crate) mod outer;
mod program;
mod rights;
#[cfg(test)]
pub(crate) mod testing;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Once;

use seccompiler::{BackendError, sock_filter};

pub use self::calls::Calls;
pub use self::condition::Condition;
pub use self::denial::explain;
pub use self::identity::IdentityError;
use self::rights::{Directories, Landlock, Reach};
use crate::cancel::CancelToken;
pub use crate::config::{Identity, User};
use crate::descriptor::{Descriptor, Uses};

/// That the threads of a tender are to be confined, and what they use that no device tells of.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    descriptors: Vec<Descriptor>,
}

impl Sandbox {
    /// One that allows what the guest's devices and backend use.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows this use of a descriptor as well.
    #[must_use]
    pub fn descriptor(mut self, descriptor: Descriptor) -> Self {
        self.descriptors.push(descriptor);
        self
    }

    /// Gives up the rights of the calling thread, for good. It may make files in `directory` alone, and what these
    /// descriptors of devices are used for.
    pub(crate) fn drop_rights(
        &self,
        descriptors: &[Descriptor],
        directory: Option<BorrowedFd<'_>>,
    ) -> Result<(), SandboxError> {
        self.restrict(directory, descriptors, Reach::Open)
    }

    fn restrict(
        &self,
        directory: Option<BorrowedFd<'_>>,
        descriptors: &[Descriptor],
        reach: Reach,
    ) -> Result<(), SandboxError> {
        rights::gain_none().map_err(SandboxError::NewRights)?;
        let unknown = outer::missing(&[(libc::SYS_capget, "capget"), (libc::SYS_capset, "capset")]);
        unknown
            .map_or_else(rights::drop_capabilities, |call| Err(outer::refusal(call)))
            .map_err(SandboxError::Capabilities)?;
        let directories = |uses| {
            let used = descriptors.iter().filter(move |descriptor| descriptor.uses.contains(uses));
            // SAFETY: devices and the debugger of the guest hold them, and this thread has the guest.
            used.map(|descriptor| unsafe { BorrowedFd::borrow_raw(descriptor.number) })
        };
        let rights =
            Directories { makes: directory, meets: directories(Uses::MEET), removes: directories(Uses::REMOVE) };
        const CONSEQUENCE: &str = "system calls are filtered, but not by the files they are about";
        static REFUSED: Once = Once::new();
        match rights::leave_files(rights, reach) {
            Ok(Landlock::Enforced) => {}
            Ok(Landlock::Missing) => log::info!("this kernel has no landlock: {CONSEQUENCE}"),
            // Once, not for each thread.
            Ok(Landlock::Filtered) => REFUSED.call_once(|| {
                let refusal = outer::refusal("landlock_create_ruleset");
                log::warn!("the sandbox has no landlock: {refusal}: {CONSEQUENCE}");
            }),
            Err(error) => REFUSED.call_once(|| log::warn!("the sandbox has no landlock: {error}: {CONSEQUENCE}")),
        }
        Ok(())
    }

    /// The calls that every thread makes, and those on the descriptors of this sandbox.
    pub(crate) fn calls(&self, stop: &CancelToken) -> Calls {
        let mut calls = common::calls(stop);
        calls.allow_uses(self.descriptors.iter().copied());
        calls
    }

    /// Takes every other system call from the calling thread, for good.
    pub(crate) fn confine(&self, calls: Calls) -> Result<(), SandboxError> {
        static MISSING: Once = Once::new();
        let program = calls.compile()?;
        denial::confined();
        match apply(&program) {
            Err(error) if is_missing(&error) => {
                MISSING.call_once(|| log::warn!("this kernel has no seccomp filters: system calls are not filtered"));
                Ok(())
            }
            other => other.map_err(SandboxError::Filter),
        }
    }
}

/// Filters the system calls of the calling thread. Not by seccomp(2), which service managers do not allow.
fn apply(program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel reads the program, whose instructions have the layout of `struct sock_filter`.
    let failed = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether a filter cannot be set because the kernel has none (prctl(2)).
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL))
}

#[cfg(test)]
mod tests;

/// Why a thread cannot be confined. The message is one line.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// `no_new_privs`.
    #[error("the sandbox cannot be set up: setting no_new_privs: {0}")]
    NewRights(io::Error),
    /// The capabilities.
    #[error("the sandbox cannot be set up: dropping capabilities: {0}")]
    Capabilities(io::Error),
    /// The filter cannot be made.
    #[error("the sandbox cannot be set up: making the filter of system calls: {0}")]
    Program(#[from] BackendError),
    /// The filter cannot be used.
    #[error("the sandbox cannot be set up: filtering system calls: {0}")]
    Filter(io::Error),
}
