//! A unikernel, from its file to its end: the other rooms, put together.
//!
//! ```
//! use hvt_tender::Unikernel;
//! use hvt_tender::device::Disk;
//! use hvt_tender::script::Script;
//!
//! # let folder = tempfile::tempdir()?;
//! # std::env::set_current_dir(&folder)?;
//! // A unikernel that writes a block. Yours is a file already.
//! std::fs::write("app.hvt", Script::new().puts("ready\n").block_write("storage", 512, [7; 512]).halt(0).build())?;
//!
//! let disk = Disk::empty(1 << 20);
//! let output = Unikernel::load("app.hvt")?.mem(64 << 20).arg("--verbose").block("storage", disk.clone()).output()?;
//! assert_eq!((output.status(), output.text().as_str()), (Some(0), "ready\n"));
//! assert_eq!(disk.contents()?[512..1024], [7; 512]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod start;
mod started;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use hvt_abi::MEM_MAX;
use self_cell::self_cell;

pub use self::error::Error;
pub(crate) use self::started::Started;
use crate::backend::Stop;
use crate::backend::frequency::Search;
use crate::config::{BackendChoice, DEFAULT_MEMORY, NetRing};
use crate::core_dump::CoreDump;
use crate::device::{Arrivals, Block, Capture, Clock, Console, Endpoint, Net, Pollable, Slot, SystemClock};
use crate::gdb::Debugger;
use crate::guest::{Guest, Limits, Output};
use crate::image::{Image, ImageError, Manifest};
use crate::monitor::Outcome;
use crate::sandbox::{Identity, Sandbox};
use crate::virtual_time::VirtualTime;

self_cell! {
    /// A file and what was found in it.
    struct Loaded {
        owner: Vec<u8>,
        #[covariant]
        dependent: Image,
    }
}

/// A unikernel that is about to run.
pub struct Unikernel {
    loaded: Loaded,
    memory: u64,
    arguments: Vec<Vec<u8>>,
    backend: BackendChoice,
    attachments: Vec<(String, Attachment)>,
    waits: Vec<(String, Waits)>,
    console: Option<Box<dyn Console + Send>>,
    clock: Box<dyn Clock + Send>,
    limits: Limits,
    virtual_time: Option<VirtualTime>,
    trace: Option<Box<dyn Write + Send>>,
    stop: Option<Stop>,
    core_dump: Option<CoreDump>,
    debugger: Option<Debugger>,
    net_ring: NetRing,
    identity: Identity,
    sandbox: Option<Sandbox>,
    /// Begun as early as possible: where the frequency is unknown it takes a while.
    cycle_frequency: Search,
}

/// How a guest waits for a network device.
struct Waits {
    endpoint: Arc<Endpoint>,
    arrivals: Option<Arc<dyn Arrivals>>,
}

/// A device that goes to the guest's thread with the guest.
enum Attachment {
    Block(Box<dyn Block + Send>),
    Net(Box<dyn Net + Send>),
}

impl From<Attachment> for Slot {
    fn from(attachment: Attachment) -> Self {
        match attachment {
            Attachment::Block(device) => Self::Block(device),
            Attachment::Net(device) => Self::Net(device),
        }
    }
}

impl Unikernel {
    /// Reads and checks the file of a unikernel.
    ///
    /// # Errors
    /// When it cannot be read, or is no unikernel that this tender can run.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_with_file(path.as_ref()).map(|(unikernel, _)| unikernel)
    }

    /// As [`load`](Self::load); leaves the file open.
    pub(crate) fn load_with_file(path: &Path) -> Result<(Self, File), Error> {
        let cycle_frequency = Search::begin();
        let (file, bytes) = read(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let unikernel = Self::parse(bytes, cycle_frequency);
        Ok((unikernel.map_err(|source| Error::Image { path: path.into(), source })?, file))
    }

    /// Checks the bytes of a unikernel's file.
    ///
    /// # Errors
    /// When it is no unikernel that this tender can run.
    pub fn from_bytes(file: Vec<u8>) -> Result<Self, ImageError> {
        Self::parse(file, Search::begin())
    }

    fn parse(file: Vec<u8>, cycle_frequency: Search) -> Result<Self, ImageError> {
        let loaded = Loaded::try_new(file, |file| Image::parse(file))?;
        Ok(Self {
            loaded,
            memory: DEFAULT_MEMORY,
            arguments: Vec::new(),
            backend: BackendChoice::Auto,
            attachments: Vec::new(),
            waits: Vec::new(),
            console: None,
            clock: Box::new(SystemClock),
            limits: Limits::new(),
            virtual_time: None,
            trace: None,
            stop: None,
            core_dump: None,
            debugger: None,
            net_ring: NetRing::default(),
            identity: Identity::default(),
            sandbox: None,
            cycle_frequency,
        })
    }

    /// The devices that it asks for.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.loaded.borrow_dependent().manifest()
    }

    /// Gives it `bytes` of memory, rounded down to 2 MiB. It has 512 MiB otherwise.
    #[must_use]
    pub fn mem(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<Vec<u8>>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item: Into<Vec<u8>>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Attaches a block device under its name in the manifest.
    #[must_use]
    pub fn block(mut self, name: impl Into<String>, device: impl Block + Send + 'static) -> Self {
        self.attachments.push((name.into(), Attachment::Block(Box::new(device))));
        self
    }

    /// Attaches a network device under its name in the manifest.
    #[must_use]
    pub fn net(mut self, name: impl Into<String>, device: impl Net + Pollable + Send + 'static) -> Self {
        let name = name.into();
        self.waits.push((name.clone(), Waits { endpoint: device.endpoint(), arrivals: device.arrivals() }));
        self.attachments.push((name, Attachment::Net(Box::new(device))));
        self
    }

    /// Sends its output elsewhere than to the standard output.
    #[must_use]
    pub fn console(mut self, console: impl Console + Send + 'static) -> Self {
        self.console = Some(Box::new(console));
        self
    }

    /// Chooses what runs it.
    #[must_use]
    pub fn backend(mut self, backend: BackendChoice) -> Self {
        self.backend = backend;
        self
    }

    /// Makes its run end when `stop` is requested.
    #[must_use]
    pub fn stop(mut self, stop: Stop) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Gives it another wall clock than the host's.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + Send + 'static) -> Self {
        self.clock = Box::new(clock);
        self
    }

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
        self.virtual_time = Some(time.clone());
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
        self.trace = Some(Box::new(to));
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
        self.limits = limits;
        self
    }

    /// Leaves a core file behind when it crashes.
    #[must_use]
    pub fn core_dump(mut self, dump: CoreDump) -> Self {
        self.core_dump = Some(dump);
        self
    }

    /// Lets a debugger look into it: it executes nothing before that has connected.
    #[must_use]
    pub fn debugger(mut self, debugger: Debugger) -> Self {
        self.debugger = Some(debugger);
        self
    }

    /// Says whether it is offered a [ring](crate::ring) for the frames that it sends. Where its frames are to be seen,
    /// by [`output`](Self::output), [`spawn`](Self::spawn), a [`trace`](Self::trace) or a debugger, it is not.
    #[must_use]
    pub fn net_ring(mut self, choice: NetRing) -> Self {
        self.net_ring = choice;
        self
    }

    /// Makes this process another user's, or gives it another root directory, before the guest is made.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// Takes from the thread that runs it, for good, all rights and system calls that it does not need; [`sandbox`] says
    /// which those are.
    ///
    /// [`sandbox`]: crate::sandbox
    #[must_use]
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = Some(sandbox);
        self
    }

    /// Runs it to its end, on this thread, its output going to the standard output unless it has another console.
    ///
    /// # Errors
    /// When it cannot be run. What the guest does once it runs is an [`Outcome`].
    pub fn run(mut self) -> Result<Outcome, Error> {
        let stop = self.take_stop()?;
        self.start(stop, None)?.run(&mut ())
    }

    /// Runs it to its end, on this thread, and keeps what is known of it. Its output goes to its console as well, if it
    /// was given one.
    ///
    /// # Errors
    /// When it cannot be run. What the guest does once it runs is an [`Outcome`].
    pub fn output(mut self) -> Result<Output, Error> {
        let stop = self.take_stop()?;
        self.start(stop, Some(Capture::new()))?.run_to_end()
    }

    /// Starts it on a thread of its own. Returns once it is about to execute its first instruction. Its output is kept,
    /// and goes to its console as well, if it was given one.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn spawn(mut self) -> Result<Guest, Error> {
        let stop = self.take_stop()?;
        Guest::spawn(self, stop)
    }

    fn take_stop(&mut self) -> Result<Stop, Error> {
        self.stop.take().map_or_else(Stop::new, Ok).map_err(Error::Stop)
    }
}

/// Opens and reads the whole of a file, and nothing but a file: anything else may have no end.
fn read(path: &Path) -> io::Result<(File, Vec<u8>)> {
    let found = path.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    if found.len() > MEM_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than any guest's memory"));
    }
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok((file, bytes))
}

#[cfg(test)]
mod tests;
