//! Sandbox: the privileges that a tender drops before its guest's first instruction, so that a
//! guest that takes over the tender gains little.
//!
//! The steps, in this order, for the thread that runs the guest:
//!
//! 1. [`Identity`]: change of the user and of the root directory. All files are open by now, but
//!    the guest is not created yet, so that the child of the process backend also runs as the new
//!    user.
//! 2. Rights of the thread: `no_new_privs`, all capabilities (effective, permitted, inheritable,
//!    ambient, bounding), and with Landlock, if the kernel supports it, the file system, TCP, and
//!    signals and abstract sockets of other processes.
//! 3. After all other set-up, a seccomp filter: [`Calls`]. The filter checks the descriptor of a
//!    call and the request of an `ioctl`, because each device, backend and helper declares its uses
//!    of descriptors.
//!
//! Steps 2 and 3 apply to single threads. Threads created after step 2 inherit it, and each gets
//! its own filter with the calls of this thread. Threads that devices created earlier run steps 2
//! and 3 just before the guest's thread runs step 3. A call that is not allowed is not executed:
//! the process ends with SIGSYS and, if [`explain`] was called, a message that names the call.
//!
//! The command line always uses the sandbox, unless `--no-sandbox` is given, and closes inherited
//! descriptors at its start. Users of the library request a [`Sandbox`] with
//! [`Unikernel::sandbox`](crate::Unikernel::sandbox), because the thread that runs the guest never
//! regains its rights: use [`spawn`](crate::Unikernel::spawn), or a dedicated thread. Devices
//! outside of this crate declare their descriptors with the method `descriptors` of the device
//! traits. Devices in memory that wake other threads (network ports, virtual time) cannot be used
//! in a sandbox.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

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

/// The tender can confine itself on this operating system.
pub(crate) const IS_AVAILABLE: bool = true;
pub use self::identity::IdentityError;
use self::rights::{Directories, Landlock, Reach};
use crate::cancel::CancelToken;
pub use crate::config::{Identity, User};
use crate::descriptor::{Descriptor, Uses};

/// Sandbox of a tender's threads, with the uses of descriptors that no device declares.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    descriptors: Vec<Descriptor>,
}

impl Sandbox {
    /// Creates a sandbox that allows the uses of the guest's devices and backend.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows this use of a descriptor too.
    #[must_use]
    pub fn descriptor(mut self, descriptor: Descriptor) -> Self {
        self.descriptors.push(descriptor);
        self
    }

    /// Drops the rights of the calling thread irreversibly. It keeps the right to create files in
    /// `directory`, and the uses of `descriptors`.
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
            // SAFETY: devices and the debugger of the guest own the descriptors, and this thread
            // owns the guest.
            used.map(|descriptor| unsafe { BorrowedFd::borrow_raw(descriptor.number) })
        };
        let rights =
            Directories { makes: directory, meets: directories(Uses::MEET), removes: directories(Uses::REMOVE) };
        const CONSEQUENCE: &str = "system calls are filtered, but access to files is not restricted";
        static REFUSED: Once = Once::new();
        match rights::leave_files(rights, reach) {
            Ok(Landlock::Enforced) => {}
            Ok(Landlock::Missing) => log::info!("this kernel has no landlock: {CONSEQUENCE}"),
            // Logged once, not for each thread.
            Ok(Landlock::Filtered) => REFUSED.call_once(|| {
                let refusal = outer::refusal("landlock_create_ruleset");
                log::warn!("the sandbox has no landlock: {refusal}: {CONSEQUENCE}");
            }),
            Err(error) => REFUSED.call_once(|| log::warn!("the sandbox has no landlock: {error}: {CONSEQUENCE}")),
        }
        Ok(())
    }

    /// Returns the calls that every thread makes, and the calls on the descriptors of this sandbox.
    pub(crate) fn calls(&self, stop: &CancelToken) -> Calls {
        let mut calls = common::calls(stop);
        calls.allow_uses(self.descriptors.iter().copied());
        calls
    }

    /// Denies every other system call to the calling thread irreversibly.
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

/// Sets the filter of the calling thread. Uses prctl(2), because service managers do not allow
/// seccomp(2).
fn apply(program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel reads the program, whose instructions have the layout of `struct
    // sock_filter`.
    let failed = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns whether a filter cannot be set because the kernel does not support filters (prctl(2)).
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL))
}

#[cfg(test)]
mod tests;

/// Thread that cannot be confined. The message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// `no_new_privs` cannot be set.
    #[error("the sandbox cannot be set up: setting no_new_privs")]
    NewRights(#[source] io::Error),
    /// The capabilities cannot be dropped.
    #[error("the sandbox cannot be set up: dropping capabilities")]
    Capabilities(#[source] io::Error),
    /// The filter cannot be compiled.
    #[error("the sandbox cannot be set up: compiling the filter of system calls")]
    Program(#[from] BackendError),
    /// The filter cannot be set.
    #[error("the sandbox cannot be set up: filtering system calls")]
    Filter(#[source] io::Error),
}
