//! Settings and runs of a unikernel that only Linux has.

mod start;
mod started;

use std::io::Write;
use std::sync::Arc;

pub(crate) use self::started::Started;
use super::{Unikernel, UnikernelError};
use crate::backend::CancelToken;
use crate::backend::frequency::Search;
use crate::config::NetRing;
use crate::core_dump::CoreDump;
use crate::device::{Arrivals, CapturedOutput, Endpoint, Pollable};
use crate::gdb::Debugger;
use crate::guest::{Guest, Output};
use crate::measure::Limits;
use crate::monitor::Outcome;
use crate::sandbox::{Identity, Sandbox};
use crate::virtual_time::VirtualTime;

/// Settings that only Linux has.
pub(super) struct Extras {
    limits: Limits,
    virtual_time: Option<VirtualTime>,
    trace: Option<Box<dyn Write + Send>>,
    core_dump: Option<CoreDump>,
    debugger: Option<Debugger>,
    net_ring: NetRing,
    identity: Identity,
    sandbox: Option<Sandbox>,
    /// Begun as early as possible: where the frequency is unknown it takes a while.
    cycle_frequency: Search,
}

/// How a guest waits for a network device, in the host's time or in a virtual one.
pub(super) struct Waits {
    endpoint: Arc<Endpoint>,
    arrivals: Option<Arc<dyn Arrivals>>,
}

impl Waits {
    /// The way to wait for `device`.
    pub(super) fn of(device: &impl Pollable) -> Self {
        Self { endpoint: device.endpoint(), arrivals: device.arrivals() }
    }
}

impl Extras {
    /// The defaults.
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
    /// Makes it live in a virtual time, which replaces its wall clock and its cycle counter. Its networks must live in
    /// the same. The process backend alone can do that: `auto` chooses it then, and another one is an error.
    ///
    /// ```
    /// use std::time::Duration;
    /// use hvt_tender::{VirtualTime, script::Script};
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

    /// Writes one line of JSON for each of its hypercalls to `to`: number, name, guest time in nanoseconds, address of the
    /// argument structure, arguments, results, and a digest (FNV-1a of 64 bits) of the bytes that it writes or reads. Two
    /// runs in a virtual time, with devices in memory, write the same.
    ///
    /// ```
    /// use hvt_tender::{VirtualTime, script::Script};
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
        self.extras.trace = Some(Box::new(to));
        self
    }

    /// Ends it when it uses more than this.
    ///
    /// ```
    /// use std::time::Duration;
    /// use hvt_tender::guest::{Limit, Limits};
    /// use hvt_tender::{monitor::Outcome, script::Script};
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

    /// Leaves a core file behind when it crashes.
    #[must_use]
    pub fn core_dump(mut self, dump: CoreDump) -> Self {
        self.extras.core_dump = Some(dump);
        self
    }

    /// Lets a debugger look into it: it executes nothing before that has connected.
    #[must_use]
    pub fn debugger(mut self, debugger: Debugger) -> Self {
        self.extras.debugger = Some(debugger);
        self
    }

    /// Says whether it is offered a [ring](crate::ring) for the frames that it sends. Where its frames are to be seen,
    /// by [`output`](Self::output), [`spawn`](Self::spawn), a [`trace`](Self::trace) or a debugger, it is not.
    #[must_use]
    pub fn net_ring(mut self, choice: NetRing) -> Self {
        self.extras.net_ring = choice;
        self
    }

    /// Makes this process another user's, or gives it another root directory, before the guest is made.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.extras.identity = identity;
        self
    }

    /// Takes from the thread that runs it, for good, all rights and system calls that it does not need; [`sandbox`] says
    /// which those are.
    ///
    /// [`sandbox`]: crate::sandbox
    #[must_use]
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.extras.sandbox = Some(sandbox);
        self
    }

    /// Runs it to its end, on this thread, and keeps what is known of it. Its output goes to its console as well, if it
    /// was given one.
    ///
    /// # Errors
    /// When it cannot be run. What the guest does once it runs is an [`Outcome`].
    pub fn output(mut self) -> Result<Output, UnikernelError> {
        let stop = self.take_stop()?;
        self.start(stop, Some(CapturedOutput::new()))?.run_to_end()
    }

    /// Starts it on a thread of its own. Returns once it is about to execute its first instruction. Its output is kept,
    /// and goes to its console as well, if it was given one.
    ///
    /// If half of the descriptors that this process may have are open already, its soft limit (RLIMIT_NOFILE) is raised
    /// to the hard one: each guest needs some.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn spawn(mut self) -> Result<Guest, UnikernelError> {
        let stop = self.take_stop()?;
        Guest::spawn(stop, |stop, console| {
            let started = self.start(stop, Some(console))?;
            Ok(|| started.run_to_end())
        })
    }

    /// Runs it to its end, on this thread, or until `stop` is requested.
    pub(super) fn run_until(self, stop: CancelToken) -> Result<Outcome, UnikernelError> {
        self.start(stop, None)?.run(&mut ())
    }
}
