//! Backends: implementations that run a guest's instructions.
//!
//! A backend is used in stages. Each stage is a type, so that a wrong order does not compile:
//!
//! 1. `Kvm::open()` or `Process::open()` checks that the backend is available. Otherwise
//!    [`Unavailable`] gives the reason.
//! 2. `.memory(size)` creates guest memory in the form that this backend requires.
//!    [`boot`](crate::boot) fills it.
//! 3. `.start(memory, memory_map, entry, stop)` returns a [`Machine`] that is ready to run, with
//!    permissions in force.
//! 4. [`Vcpu::run`] is called until the guest ends.
//!
//! A backend does not depend on any device, manifest or hypercall. It converts the exits of its
//! machine to [`Exit`](crate::Exit).

#[cfg(test)]
pub(crate) mod assembly;
pub(crate) mod auto;
pub mod debug;
pub mod frequency;
pub(crate) mod kind;
#[cfg(target_arch = "x86_64")]
pub mod redox;

use std::fmt;
use std::sync::Arc;

use crate::Vcpu;
use crate::memory::Usage;
use crate::sandbox::Calls;
use crate::sys::cpu_clock::CpuClock;
use crate::sys::host_limit::Advice;

pub use crate::cancel::{CancelToken, Kick};
pub use crate::sys::backend::*;
pub(crate) use kind::{Kind, Opened, Running};

/// Guest that is ready to run on one virtual CPU.
///
/// A machine must stay on the thread that created it, because a backend may tie the guest's life to
/// that thread.
pub trait Machine: Vcpu<Error = BackendError> {
    /// Returns the clock of the CPU time that the guest's instructions consume. The default is the
    /// calling thread's clock, which is correct if the thread itself enters the guest.
    ///
    /// # Errors
    /// Returns [`BackendError`] if there is no such clock.
    fn cpu_clock(&self) -> Result<CpuClock, BackendError> {
        CpuClock::of_this_thread().map_err(|source| BackendError { what: "querying the CPU clock", source })
    }

    /// What a debugger needs of it, where the backend has that.
    fn debug(&mut self) -> Option<&mut dyn debug::DebugTarget> {
        None
    }

    /// Returns a handle that reports how much of the guest's memory is in use.
    ///
    /// # Errors
    /// [`Unsupported`](std::io::ErrorKind::Unsupported) where the backend cannot tell.
    fn memory_usage(&self) -> std::io::Result<Usage> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Allows the system calls that the calling thread makes through this.
    fn system_calls(&self, _calls: &mut Calls) {}
}

/// Counter that a guest reads instead of its cycle counter.
#[derive(Clone)]
pub struct CycleCounter(Arc<dyn Fn() -> u64 + Send + Sync>);

impl CycleCounter {
    /// Creates a counter that returns the values of `read`, which must not decrease.
    #[must_use]
    pub fn new(read: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Reads the counter.
    #[must_use]
    pub fn read(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for CycleCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CycleCounter")
    }
}

/// The backend is unavailable on this machine.
#[derive(Debug, thiserror::Error)]
#[error("backend {backend} is not available: {reason}")]
pub struct Unavailable {
    /// Name of the backend, as in `--backend`.
    pub backend: &'static str,
    /// Reason and remedy.
    pub reason: String,
}

/// Failure of a backend: a system call or the machine failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}{}", Advice::on(source))]
pub struct BackendError {
    /// Description of the failed operation.
    pub what: &'static str,
    /// Error reported by the host.
    pub source: std::io::Error,
}

impl BackendError {
    /// The system call error that has just been reported, while doing `what`.
    #[must_use]
    pub fn last_os_error(what: &'static str) -> Self {
        Self { what, source: std::io::Error::last_os_error() }
    }
}
