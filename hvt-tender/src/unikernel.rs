//! A unikernel, from its file to its end: the other rooms, put together.
//!
//! ```no_run
//! use hvt_tender::device::{BlockOptions, FileBlock};
//! use hvt_tender::{Unikernel, monitor::Outcome};
//!
//! let disk = FileBlock::open("disk.img", &BlockOptions::default())?;
//! let outcome = Unikernel::load("app.hvt")?.mem(64 << 20).arg("--verbose").block("storage", disk).run()?;
//! assert!(matches!(outcome, Outcome::Exited { status: 0, .. }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fs;
use std::io::{self, Write};
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hvt_abi::{BOOT_INFO_BASE, BootInfo, Gpa, MEM_MAX};
use self_cell::self_cell;

use crate::backend::auto::Backend;
use crate::backend::tsc::{Frequency, Search, Source};
use crate::backend::{self, CycleCounter, Machine, Stop, Unavailable};
use crate::boot::{BootConfig, BootError, CommandLine, CommandLineError, Plan};
use crate::config::{BackendChoice, DEFAULT_MEMORY, MemoryOutOfRange, memory_size};
use crate::device::{
    Arrivals, AttachError, Attached, Block, Capture, Clock, Console, Devices, Endpoint, FdConsole, FdPoller,
    Interrupted, Net, Pollable, Poller, Slot, SystemClock, attach,
};
use crate::guest::{Counter, Guest, LimitedConsole, Limits, Output, Trace, Verdict, Watchdog, cpu_time, touched};
use crate::image::{Image, ImageError, Manifest};
use crate::memory::{GuestSlice, Layout, MapError};
use crate::monitor::{self, Observer, Outcome};
use crate::virtual_time::{VirtualPoller, VirtualTime};

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
        let cycle_frequency = Search::begin();
        let path = path.as_ref();
        let file = read(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Self::parse(file, cycle_frequency).map_err(|source| Error::Image { path: path.into(), source })
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
    /// the same. The process backend alone can do that.
    #[must_use]
    pub fn virtual_time(mut self, time: &VirtualTime) -> Self {
        self.virtual_time = Some(time.clone());
        self
    }

    /// Writes one line of JSON for each of its hypercalls to `to`: number, name, guest time in nanoseconds, arguments,
    /// results.
    #[must_use]
    pub fn trace(mut self, to: impl Write + Send + 'static) -> Self {
        self.trace = Some(Box::new(to));
        self
    }

    /// Ends it when it uses more than this.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Runs it to its end, on this thread, its output going to the standard output unless it has another console.
    ///
    /// # Errors
    /// When it cannot be run. What the guest does once it runs is an [`Outcome`].
    pub fn run(mut self) -> Result<Outcome, Error> {
        let stop = self.take_stop()?;
        Ok(self.start(stop, None)?.run(&mut ())?)
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

    /// Makes everything ready for its first instruction, which is to be executed on this thread.
    pub(crate) fn start(self, stop: Stop, capture: Option<Capture>) -> Result<Started, Error> {
        let image = self.loaded.borrow_dependent();
        let mem_size = memory_size(self.memory)?;
        if mem_size != self.memory {
            log::warn!("guest memory is rounded to {} MB, a multiple of 2 MB", mem_size >> 20);
        }
        let cmdline = CommandLine::from_args(self.arguments)?;
        let waits = with_handles(image.manifest(), self.waits);
        let poller: Box<dyn Poller> = match &self.virtual_time {
            Some(time) => Box::new(virtual_poller(time, waits, image.manifest(), &stop)?),
            None => {
                let endpoints = waits.into_iter().map(|(handle, waits)| (handle, waits.endpoint));
                Box::new(FdPoller::new(stop.clone(), endpoints))
            }
        };
        let clock = match &self.virtual_time {
            Some(time) => Box::new(time.wall_clock()),
            None => self.clock,
        };
        let attachments = self.attachments.into_iter().map(|(name, attachment)| (name, Slot::from(attachment)));
        let Attached { slots, manifest } = attach(image.manifest(), attachments)?;
        let verdict = Verdict::new(stop.clone());
        let mut console: Box<dyn Console> = match (self.console, capture.clone()) {
            (None, None) => Box::new(FdConsole::new(io::stdout(), stop.clone())),
            (None, Some(capture)) => Box::new(capture),
            (Some(console), None) => console,
            (Some(console), Some(capture)) => Box::new(Both(console, capture)),
        };
        if let Some(most) = self.limits.console {
            console = Box::new(LimitedConsole::new(console, most, verdict.clone()));
        }
        let devices = Devices { console, clock, poller, slots };

        let mut backend = Backend::open(self.backend)?;
        log::debug!("backend {}, {} MB of memory", backend.name(), mem_size >> 20);
        let backend_name = backend.name();
        let mut known = None;
        if let Some(time) = self.virtual_time.clone() {
            known = Some(Frequency { hz: VirtualTime::FREQUENCY, source: Source::Virtual });
            let counter = CycleCounter::new(move || time.read());
            let unsupported = Error::Unsupported { backend: backend_name, what: "a virtual time" };
            backend = backend.with_cycle_counter(counter).ok_or(unsupported)?;
        }
        let memory = backend.memory(mem_size)?;
        if known.is_none() {
            known = backend.cycle_frequency().transpose()?;
        }
        let cpu_cycle_freq = known.map_or(0, |frequency| frequency.hz);
        let config = BootConfig { mem_size, cmdline: &cmdline, manifest: &manifest, cpu_cycle_freq, net_ring: None };
        let booted = Plan::new(image, config)?.load(&memory)?;
        // The guest's file is in the guest's memory by now.
        drop(self.loaded);
        let machine = backend.start(memory, &booted.layout, &booted.entry, &stop)?;
        let frequency = match known {
            Some(frequency) => frequency,
            None => {
                // Measured for as long as all of the above has taken.
                let found = self.cycle_frequency.finish()?;
                let field = Gpa(BOOT_INFO_BASE.0 + offset_of!(BootInfo, cpu_cycle_freq) as u64);
                machine.memory().write(field, &found.hz.to_le_bytes()).map_err(BootError::from)?;
                found
            }
        };
        log::debug!("the guest's clock ticks at {} Hz, says {}", frequency.hz, frequency.source);
        if self.limits.memory.is_some() && machine.memory_file().is_none() {
            return Err(Error::Unsupported {
                backend: backend_name,
                what: "a limit of the memory that a guest touches",
            });
        }
        let trace = self.trace.map(|to| Trace::new(to, self.virtual_time));
        Ok(Started { machine, layout: booted.layout, devices, limits: self.limits, verdict, capture, trace })
    }
}

/// A guest that is about to execute its first instruction.
pub(crate) struct Started {
    machine: Box<dyn Machine>,
    layout: Layout,
    devices: Devices,
    limits: Limits,
    verdict: Verdict,
    capture: Option<Capture>,
    trace: Option<Trace>,
}

impl Started {
    /// Runs it to its end.
    fn run(&mut self, observer: &mut impl Observer) -> Result<Outcome, backend::Error> {
        let watchdog = {
            let error = |what| move |source| backend::Error { what, source };
            let memory = self.machine.memory_file().filter(|_| self.limits.memory.is_some());
            let memory = memory.map(|file| file.try_clone_to_owned()).transpose();
            let memory = memory.map_err(error("watching the guest's memory"))?;
            let clock = self.machine.cpu_clock()?;
            let started = Watchdog::start(&self.limits, clock, memory, self.verdict.clone());
            started.map_err(error("watching the guest"))?
        };
        let begun = self.devices.poller.begin();
        let observers = &mut (observer, &mut self.trace);
        let (machine, layout) = (self.machine.as_mut(), &self.layout);
        let outcome = match begun {
            Ok(()) => monitor::run_observed(machine, layout, &mut self.devices, observers),
            Err(Interrupted) => Ok(Outcome::Interrupted),
        };
        drop(watchdog);
        Ok(match (outcome?, self.verdict.limit()) {
            (Outcome::Interrupted, Some(limit)) => Outcome::Exceeded(limit),
            (outcome, _) => outcome,
        })
    }

    /// Runs it to its end, and keeps what is known of it.
    pub(crate) fn run_to_end(mut self) -> Result<Output, Error> {
        let clock = self.machine.cpu_clock()?;
        let (start, cpu_start) = (Instant::now(), cpu_time(clock));
        let mut counter = Counter::new();
        let outcome = self.run(&mut counter)?;
        Ok(Output {
            outcome,
            console: self.capture.map(|capture| capture.bytes()).unwrap_or_default(),
            calls: counter.into_calls(),
            wall_time: start.elapsed(),
            cpu_time: cpu_time(clock).saturating_sub(cpu_start),
            peak_memory: self.machine.memory_file().map(touched),
        })
    }
}

/// Two consoles for the same output.
struct Both(Box<dyn Console + Send>, Capture);

impl Console for Both {
    fn write(&mut self, data: GuestSlice<'_>) {
        self.0.write(data);
        self.1.write(data);
    }
}

/// Reads the whole of a file, and nothing but a file: anything else may have no end.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let found = path.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    if found.len() > MEM_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than any guest's memory"));
    }
    fs::read(path)
}

/// A poller in virtual time, for devices that all live in one.
fn virtual_poller(
    time: &VirtualTime,
    waits: Vec<(u32, Waits)>,
    manifest: &Manifest,
    stop: &Stop,
) -> Result<VirtualPoller, Error> {
    let arrivals = waits.into_iter().map(|(handle, waits)| {
        let name = || manifest.devices().get(handle as usize - 1).map(|device| device.name.clone());
        let arrivals = waits.arrivals.ok_or_else(|| Error::NotVirtual { name: name().unwrap_or_default() })?;
        Ok((handle, arrivals))
    });
    VirtualPoller::new(time.clone(), arrivals.collect::<Result<_, Error>>()?, stop.clone()).map_err(Error::Stop)
}

/// What is known by the names of devices that the guest asks for, by their handles.
fn with_handles<T>(manifest: &Manifest, endpoints: Vec<(String, T)>) -> Vec<(u32, T)> {
    let handle = |name: &str| (1..).zip(manifest.devices()).find(|(_, device)| device.name == name);
    endpoints.into_iter().filter_map(|(name, endpoint)| Some((handle(&name)?.0, endpoint))).collect()
}

/// Why a unikernel cannot be run. The message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Its file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Its file is not one that this tender can run.
    #[error("{}: {source}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ImageError,
    },
    /// No guest can have so much memory.
    #[error(transparent)]
    MemorySize(#[from] MemoryOutOfRange),
    /// Its arguments cannot be passed on.
    #[error(transparent)]
    Arguments(#[from] CommandLineError),
    /// What it asks for and what was attached do not match.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// It does not fit into its memory.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The backend is not to be had.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// Its memory is not to be had.
    #[error(transparent)]
    Memory(#[from] MapError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The host has no descriptor left.
    #[error("cannot make an event: {0}")]
    Stop(io::Error),
    /// The host has no thread left for the guest, or the thread panicked.
    #[error("cannot run the guest on a thread: {0}")]
    Thread(io::Error),
    /// A guest in virtual time is to have a network that is not.
    #[error("network device '{name}' does not live in virtual time: take the port of a link or switch that does")]
    NotVirtual {
        /// Name of the device.
        name: String,
    },
    /// The backend cannot do what was asked for.
    #[error("backend {backend} does not support {what}; the process backend does")]
    Unsupported {
        /// Name of the backend, as in `--backend`.
        backend: &'static str,
        /// What was asked for.
        what: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::thread;

    use hvt_abi::hypercall::{BlockIo, Halt, Number, Poll, Puts};
    use hvt_abi::manifest::Kind;
    use zerocopy::IntoBytes;

    use crate::device::Disk;
    use crate::image::fixture::{CALLS_DATA, calls, manifest};

    const BUFFER: u64 = CALLS_DATA + 0x1000;

    fn guest(devices: &[(&str, Kind)], made: &[(Number, &[u8])]) -> Unikernel {
        let unikernel = Unikernel::from_bytes(calls(devices, made)).unwrap();
        unikernel.backend(BackendChoice::Process).mem(4 << 20)
    }

    #[test]
    fn runs_with_the_devices_that_it_is_given() {
        let contents: Vec<u8> = (0..4096).map(|index| (index / 512 + index) as u8).collect();
        let (disk, console) = (Disk::from_bytes(contents.clone()), Capture::new());
        let read = BlockIo { handle: 1, offset: 512, data: Gpa(BUFFER), len: 1024, ..BlockIo::default() };
        let puts = Puts { data: Gpa(BUFFER), len: 1024 };
        let halt = Halt { exit_status: -2, ..Halt::default() };
        let calls: &[(Number, &[u8])] =
            &[(Number::BlockRead, read.as_bytes()), (Number::Puts, puts.as_bytes()), (Number::Halt, halt.as_bytes())];
        let unikernel = guest(&[("storage", Kind::Block)], calls);
        assert_eq!(unikernel.manifest().devices()[0].name, "storage");
        let outcome = unikernel.block("storage", disk).console(console.clone()).run().unwrap();
        assert_eq!(outcome, Outcome::Exited { status: -2, cookie: None });
        assert_eq!(console.bytes(), contents[512..512 + 1024]);
    }

    /// A console that passes on that something was written.
    struct Bell(Sender<()>);

    impl Console for Bell {
        fn write(&mut self, _: GuestSlice<'_>) {
            self.0.send(()).unwrap();
        }
    }

    #[test]
    fn a_stop_ends_a_guest_that_spins_or_sleeps() {
        let sleep = Poll { timeout_nsecs: u64::MAX, ..Poll::default() };
        let puts = Puts { data: Gpa(BUFFER), len: 1 };
        let spinning = &[(Number::Puts, puts.as_bytes())][..];
        let sleeping = &[(Number::Puts, puts.as_bytes()), (Number::Poll, sleep.as_bytes())];
        for calls in [spinning, sleeping] {
            let stop = Stop::new().unwrap();
            let (bell, rings) = channel();
            let unikernel = guest(&[], calls).stop(stop.clone()).console(Bell(bell));
            let stopper = thread::spawn(move || {
                rings.recv().unwrap();
                stop.request();
            });
            assert_eq!(unikernel.run().unwrap(), Outcome::Interrupted);
            stopper.join().unwrap();
        }
    }

    #[test]
    fn a_stop_that_comes_early_is_not_lost() {
        let stop = Stop::new().unwrap();
        let unikernel = guest(&[], &[]).stop(stop.clone());
        stop.request();
        assert_eq!(unikernel.run().unwrap(), Outcome::Interrupted);
    }

    #[test]
    fn a_device_that_is_missing_is_an_error() {
        let error = guest(&[("storage", Kind::Block)], &[]).run().unwrap_err().to_string();
        assert!(error.contains("'storage' declared but not attached"), "{error}");
    }

    #[test]
    fn is_checked_when_it_is_loaded() {
        assert!(matches!(Unikernel::load("/dev/null"), Err(Error::Read { .. })));
        assert!(Unikernel::from_bytes(Vec::new()).is_err());
        assert!(Unikernel::from_bytes(manifest(&[])).is_err());
    }
}
