//! Settings of a unikernel that few need, and its runs.

use std::io::Write;
use std::sync::Arc;

use super::debugger::AwaitedDebugger;
use super::supply::Supply;
use super::{Unikernel, UnikernelError};
use crate::backend::frequency::Search;
use crate::config::NetRing;
use crate::core_dump::CoreDump;
use crate::device::{Arrivals, CapturedOutput, Endpoint, Pollable};
use crate::guest::{Guest, Output};
use crate::measure::Limits;
use crate::sandbox::{Identity, Sandbox};
use crate::virtual_time::VirtualTime;

/// Settings that few unikernels need.
#[derive(Clone, Debug)]
pub(super) struct Extras {
    pub(super) limits: Limits,
    pub(super) virtual_time: Option<VirtualTime>,
    pub(super) trace: Option<Supply<Box<dyn Write + Send>>>,
    pub(super) core_dump: Option<Arc<CoreDump>>,
    pub(super) debugger: Option<Supply<Box<dyn AwaitedDebugger>>>,
    pub(super) net_ring: NetRing,
    pub(super) identity: Identity,
    pub(super) sandbox: Option<Sandbox>,
    /// Search for the frequency of the cycle counter. It starts as early as possible, because a
    /// measurement takes time.
    pub(super) cycle_frequency: Search,
}

/// Endpoint and arrivals with which a guest waits for a network device, in real or in virtual time.
pub(super) struct Waits {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) arrivals: Option<Arc<dyn Arrivals>>,
}

impl Waits {
    /// Returns the endpoint and the arrivals of `device`.
    pub(super) fn of(device: &impl Pollable) -> Self {
        Self { endpoint: device.endpoint(), arrivals: device.arrivals() }
    }
}

impl Extras {
    /// Returns the default settings.
    pub(super) fn begin() -> Self {
        Self {
            limits: Limits::new(),
            virtual_time: None,
            trace: None,
            core_dump: None,
            debugger: None,
            net_ring: NetRing::default(),
            identity: Identity::default(),
            sandbox: None,
            cycle_frequency: Search::begin(),
        }
    }
}

impl Unikernel {
    /// Runs the guest in virtual time, which replaces its wall clock and its cycle counter. All of
    /// its network devices must use the same virtual time.
    ///
    /// Only the process backend supports virtual time.
    /// [`BackendChoice::Auto`](crate::config::BackendChoice::Auto) selects it; with another
    /// backend, the start of the guest fails with [`UnikernelError::Unsupported`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use hvt_tender::{Script, VirtualTime};
    ///
    /// const HOUR: Duration = Duration::from_secs(3600);
    /// let time = VirtualTime::new();
    /// let output = Script::new().sleep(HOUR).halt(0).unikernel()?.virtual_time(&time).output()?;
    /// assert_eq!(time.elapsed(), HOUR);
    /// assert!(output.wall_time < HOUR / 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn virtual_time(mut self, time: &VirtualTime) -> Self {
        self.extras.virtual_time = Some(time.clone());
        self
    }

    /// Writes one line of JSON per hypercall to `to`: number, name, time in nanoseconds, guest
    /// address of the argument structure, arguments, results, and a digest (64-bit FNV-1a) of the
    /// bytes that the guest writes or reads. Two runs in virtual time with in-memory devices write
    /// the same trace. `to` serves one run.
    ///
    /// ```
    /// use hvt_tender::{Script, VirtualTime};
    ///
    /// let script = Script::new().puts("tick").halt(0);
    /// let trace = || -> Result<String, Box<dyn std::error::Error>> {
    ///     let file = tempfile::NamedTempFile::new()?;
    ///     script.unikernel()?.virtual_time(&VirtualTime::new()).trace(file.reopen()?).output()?;
    ///     Ok(std::fs::read_to_string(file)?)
    /// };
    /// let first = trace()?;
    /// assert!(first.starts_with(r#"{"number":2,"name":"puts","time":0,"argument":"#) && first.lines().count() == 2);
    /// assert_eq!(first, trace()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn trace(mut self, to: impl Write + Send + 'static) -> Self {
        self.extras.trace = Some(Supply::once(Box::new(to)));
        self
    }

    /// Sets the limits of the guest. A guest that exceeds one ends with
    /// [`Outcome::Exceeded`](crate::Outcome::Exceeded).
    ///
    /// ```
    /// use std::time::Duration;
    /// use hvt_tender::{Limit, Limits};
    /// use hvt_tender::{Outcome, Script};
    ///
    /// let for_ever = Script::new().sleep(Duration::MAX);
    /// let limits = Limits::new().wall_time(Duration::from_millis(20));
    /// assert_eq!(for_ever.unikernel()?.limits(limits).run()?, Outcome::Exceeded(Limit::WallTime));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.extras.limits = limits;
        self
    }

    /// Writes a core file if the guest crashes.
    #[must_use]
    pub fn core_dump(mut self, dump: CoreDump) -> Self {
        self.extras.core_dump = Some(Arc::new(dump));
        self
    }

    /// Sets the debugger of one run.
    pub(crate) fn set_debugger(&mut self, debugger: Box<dyn AwaitedDebugger>) {
        self.extras.debugger = Some(Supply::once(debugger));
    }

    /// Selects whether the guest is offered a network ring for its frames. Without effect if
    /// each frame must be a hypercall: with [`output`](Self::output), [`spawn`](Self::spawn), a
    /// [`trace`](Self::trace), [virtual time](Self::virtual_time) or a debugger, no ring is
    /// offered.
    #[must_use]
    pub fn net_ring(mut self, choice: NetRing) -> Self {
        self.extras.net_ring = choice;
        self
    }

    /// Changes the user, the groups or the root directory of this process before guest memory is
    /// allocated.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.extras.identity = identity;
        self
    }

    /// Confines the thread that runs the guest: it irrevocably loses all privileges and system
    /// calls that it does not need. See [`sandbox`](crate::sandbox).
    #[must_use]
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.extras.sandbox = Some(sandbox);
        self
    }

    /// Runs the guest to its end on the calling thread and returns the record of the run. Console
    /// output is captured, and also goes to the [console](Self::console) if one is set.
    ///
    /// # Errors
    /// Returns the errors of [`run`](Self::run).
    pub fn output(&self) -> Result<Output, UnikernelError> {
        let stop = self.run_token()?;
        self.clone().start(stop, Some(CapturedOutput::new()))?.run_to_end()
    }

    /// Starts the guest on a new thread. Returns when the guest is ready to execute its first
    /// instruction. Console output is captured, and also goes to the [console](Self::console) if
    /// one is set.
    ///
    /// If half of the descriptors of this process are in use, its soft limit (`RLIMIT_NOFILE`) is
    /// raised to the hard limit, because each guest needs several descriptors.
    ///
    /// # Errors
    /// Returns [`UnikernelError`] if the guest cannot be started.
    pub fn spawn(&self) -> Result<Guest, UnikernelError> {
        let stop = self.run_token()?;
        let unikernel = self.clone();
        Guest::spawn(stop, |stop, console| {
            let started = unikernel.start(stop, Some(console))?;
            Ok(|| started.run_to_end())
        })
    }
}
