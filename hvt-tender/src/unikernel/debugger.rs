//! Debugger of a run, as the run sees it: the debugger itself can be left out of the build.

use std::io;

use crate::Vcpu;
use crate::backend::{BackendError, CancelToken, Machine};
use crate::descriptor::Descriptor;
use crate::memory::MemoryMap;
use crate::monitor::Outcome;
use crate::sandbox::{Calls, Sandbox};

/// Runs a guest on the virtual CPU that the debugger controls.
pub(crate) type RunGuest<'a> = &'a mut dyn FnMut(&mut dyn Vcpu<Error = BackendError>) -> Result<Outcome, BackendError>;

/// Debugger that has not connected yet.
pub(crate) trait AwaitedDebugger: Send {
    /// Directory in which a file is removed before the guest runs.
    fn descriptor(&self) -> Option<Descriptor>;

    /// Waits until the debugger connects. Returns `None` if `stop` is requested before.
    ///
    /// # Errors
    /// The error of the host.
    fn accept(self: Box<Self>, stop: &CancelToken) -> io::Result<Option<Box<dyn ConnectedDebugger>>>;
}

/// Debugger that has connected.
pub(crate) trait ConnectedDebugger {
    /// Starts a thread that watches the connection while the guest runs. In a sandbox the thread makes these calls alone.
    ///
    /// # Errors
    /// The error of the host, or of the sandbox.
    fn watch(
        self: Box<Self>,
        stop: &CancelToken,
        confinement: Option<(Sandbox, Calls)>,
    ) -> io::Result<Box<dyn WatchedDebugger>>;
}

/// Debugger whose connection is watched.
pub(crate) trait WatchedDebugger {
    /// Allows the system calls that the guest's thread makes on the connection.
    fn system_calls(&self, calls: &mut Calls);

    /// Runs a guest to its end under the debugger.
    ///
    /// # Errors
    /// Returns [`BackendError`] of `run`, or if the machine cannot be debugged.
    fn run(
        self: Box<Self>,
        machine: &mut dyn Machine,
        memory_map: &MemoryMap,
        stop: &CancelToken,
        run: RunGuest<'_>,
    ) -> Result<Outcome, BackendError>;
}
