//! What runs a guest's instructions.
//!
//! A backend lives in stages, each a type, so that a wrong order does not compile:
//!
//! 1. `Kvm::open()`, `Process::open()`: is it to be had here? If not, [`Unavailable`] says why.
//! 2. `.memory(size)`: guest memory in the form that this backend needs. [`boot`](crate::boot) fills it.
//! 3. `.start(memory, layout, entry, stop)`: a [`Machine`], ready to run, permissions in force.
//! 4. [`Vcpu::run`] until the guest ends.
//!
//! A backend knows no device, no manifest and no hypercall by name. It turns its machine's reasons into [`Exit`](crate::Exit).

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
/// The process backend: it is for guests of x86_64.
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

/// A guest that is ready to run, on one virtual CPU.
///
/// It belongs to the thread that made it: a backend may tie the guest's life to that thread.
pub trait Machine: Vcpu<Error = BackendError> {
    /// The clock of the CPU time that the guest's instructions take. Here it is that of the calling thread, which is
    /// right where the thread itself enters the guest.
    ///
    /// # Errors
    /// When there is none.
    #[cfg(target_os = "linux")]
    fn cpu_clock(&self) -> Result<ClockId, BackendError> {
        let mut clock = 0;
        // SAFETY: the thread is this one, which exists, and `clock` is a local that the call fills in.
        match unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) } {
            0 => Ok(ClockId::from_raw(clock)),
            errno => {
                Err(BackendError { what: "asking for a CPU clock", source: std::io::Error::from_raw_os_error(errno) })
            }
        }
    }

    /// What a debugger needs of it, where the backend has that.
    #[cfg(target_os = "linux")]
    fn debug(&mut self) -> Option<&mut dyn debug::DebugTarget> {
        None
    }

    /// What tells how much of the guest's memory is in use.
    ///
    /// # Errors
    /// [`Unsupported`](std::io::ErrorKind::Unsupported) where the backend cannot tell.
    #[cfg(target_os = "linux")]
    fn memory_usage(&self) -> std::io::Result<Usage> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Allows the system calls that the calling thread makes through this.
    #[cfg(target_os = "linux")]
    fn system_calls(&self, _calls: &mut Calls) {}
}

/// What a guest reads where it would read its cycle counter.
#[derive(Clone)]
pub struct CycleCounter(Arc<dyn Fn() -> u64 + Send + Sync>);

impl CycleCounter {
    /// A counter whose readings are those of `read`. They must not decrease.
    #[must_use]
    pub fn new(read: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Reads it.
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

/// A backend cannot be had on this machine.
#[derive(Debug, thiserror::Error)]
#[error("backend {backend} is not available: {reason}")]
pub struct Unavailable {
    /// Name of the backend, as in `--backend`.
    pub backend: &'static str,
    /// Why, and what would help.
    pub reason: String,
}

/// A backend failed: its kernel or machine did not do what it must.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}{}", Advice::on(source))]
pub struct BackendError {
    /// What was being done.
    pub what: &'static str,
    /// What the host said.
    pub source: std::io::Error,
}

impl BackendError {
    /// The system call error that has just been reported, while doing `what`.
    #[must_use]
    pub fn last_os_error(what: &'static str) -> Self {
        Self { what, source: std::io::Error::last_os_error() }
    }
}
