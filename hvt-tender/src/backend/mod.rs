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

#[cfg(all(test, target_os = "linux"))]
mod assembly;
#[cfg(target_os = "linux")]
pub mod auto;
#[cfg(target_os = "linux")]
pub mod debug;
#[cfg(target_os = "linux")]
pub mod frequency;
#[cfg(target_os = "linux")]
pub mod kvm;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod process;
/// Stub of the process backend, which supports only x86_64.
#[cfg(all(target_os = "linux", not(target_arch = "x86_64")))]
#[path = "process/absent.rs"]
pub mod process;
#[cfg(target_arch = "x86_64")]
pub mod redox;

use std::fmt;
use std::sync::Arc;

#[cfg(target_os = "linux")]
use nix::time::ClockId;

use crate::Vcpu;
#[cfg(target_os = "linux")]
use crate::memory::Usage;
#[cfg(target_os = "linux")]
use crate::sandbox::Calls;
use crate::sys::host_limit::Advice;

pub use crate::cancel::{CancelToken, Kick};

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
    #[cfg(target_os = "linux")]
    fn cpu_clock(&self) -> Result<ClockId, BackendError> {
        let mut clock = 0;
        // SAFETY: the thread is the current one, and `clock` is a local that the call fills in.
        match unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) } {
            0 => Ok(ClockId::from_raw(clock)),
            errno => {
                Err(BackendError { what: "querying the CPU clock", source: std::io::Error::from_raw_os_error(errno) })
            }
        }
    }

    /// Returns the debugger interface, if the backend has one.
    #[cfg(target_os = "linux")]
    fn debug(&mut self) -> Option<&mut dyn debug::DebugTarget> {
        None
    }

    /// Returns a handle that reports how much of the guest's memory is in use.
    ///
    /// # Errors
    /// Returns [`Unsupported`](std::io::ErrorKind::Unsupported) if the backend cannot report it.
    #[cfg(target_os = "linux")]
    fn memory_usage(&self) -> std::io::Result<Usage> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Allows the system calls that the calling thread makes through this machine.
    #[cfg(target_os = "linux")]
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
