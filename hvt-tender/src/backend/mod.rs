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

#[cfg(target_arch = "aarch64")]
pub(crate) mod aarch64;
pub(crate) mod auto;
pub(crate) mod debug;
pub(crate) mod frequency;
pub(crate) mod kind;
#[cfg(target_arch = "x86_64")]
#[allow(dead_code, reason = "only Redox has its kernel; the tests run everywhere")]
pub(crate) mod redox;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64 as arch;

use std::fmt;
use std::io;
use std::sync::Arc;

use hvt_core::kernel::Refused;

use crate::Vcpu;
use crate::memory::Usage;
use crate::sandbox::Calls;
use crate::sys::cpu_clock::CpuClock;

pub(crate) use crate::cancel::{CancelToken, Kick};
pub(crate) use crate::sys::backend::*;
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

    /// Returns the interface for a debugger, if the backend has one.
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
pub(crate) struct CycleCounter(Arc<dyn Fn() -> u64 + Send + Sync>);

impl CycleCounter {
    /// Creates a counter that returns the values of `read`, which must not decrease.
    #[must_use]
    pub(crate) fn new(read: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Reads the counter.
    #[must_use]
    pub(crate) fn read(&self) -> u64 {
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
#[error("backend {backend} is not available")]
pub struct Unavailable {
    /// Name of the backend, as in `--backend`.
    pub backend: &'static str,
    /// Reason and remedy.
    #[source]
    pub reason: UnavailableReason,
}

/// Reason that a backend is unavailable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnavailableReason {
    /// The backend is the hypervisor of a Redox kernel, and this system is Linux.
    #[error("it needs a Redox kernel, and this is Linux")]
    NotRedox,
    /// The backend requires Linux, and this system is Redox.
    #[error("not supported on Redox: omit --backend")]
    NotLinux,
    /// The backend does not support the CPU's architecture.
    #[error("it supports only x86_64; use kvm")]
    Architecture,
    /// The program was built without a backend.
    #[error("this program was built without backends: enable the feature kvm or process of hvt-tender")]
    NoBackend,
    /// The program was built without the backend.
    #[error("this program was built without it: enable the feature {feature} of hvt-tender")]
    NotBuilt {
        /// Feature of this crate.
        feature: &'static str,
    },
    /// `/dev/kvm` cannot be opened. The message ends with the remedy, if there is one.
    #[error("cannot open /dev/kvm: {error}{}{remedy}", if remedy.is_empty() { "" } else { ": " })]
    Kvm {
        /// Error of open(2).
        error: io::Error,
        /// Remedy.
        remedy: &'static str,
    },
    /// The version of the KVM API is not 12.
    #[error("its API version is {version}, not {expected}")]
    KvmVersion {
        /// Version that the kernel reports.
        version: i32,
        /// Stable version.
        expected: i32,
    },
    /// The kernel lacks a capability of KVM.
    #[error("this kernel lacks {name}")]
    KvmCapability {
        /// Name of the capability.
        name: &'static str,
    },
    /// KVM could not create an object.
    #[error("cannot create {what}")]
    KvmObject {
        /// Object.
        what: &'static str,
        /// Error of the request.
        source: io::Error,
    },
    /// An inherited seccomp filter denies a required system call.
    #[error(transparent)]
    SystemCall(io::Error),
    /// The kernel cannot wait for a pidfd.
    #[error("it must wait for a pidfd: use Linux 5.4 or later")]
    NoPidfd,
    /// The Redox kernel has no hypervisor.
    #[error("this kernel has no hypervisor: use a kernel built with scripts/redox-apply")]
    NoHypervisor,
    /// The Redox kernel lets only the superuser use the hypervisor.
    #[error("{refused}: start the tender as root")]
    NotPermitted {
        /// Answer of the kernel.
        refused: Refused,
    },
    /// The Redox kernel has refused a request.
    #[error(transparent)]
    Refused(Refused),
    /// The Redox kernel reports that this machine cannot run guests.
    #[error("{0}")]
    Obstacle(&'static str),
}

/// Failure of a backend: a system call or the machine failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
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
