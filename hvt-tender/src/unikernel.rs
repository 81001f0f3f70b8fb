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
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hvt_abi::MEM_MAX;
use self_cell::self_cell;

use crate::backend::auto::Backend;
use crate::backend::tsc::Search;
use crate::backend::{self, Stop, Unavailable};
use crate::boot::{BootConfig, BootError, CommandLine, CommandLineError, Plan};
use crate::config::{BackendChoice, DEFAULT_MEMORY, MemoryOutOfRange, memory_size};
use crate::device::{
    AttachError, Attached, Block, Console, Devices, Endpoint, FdConsole, FdPoller, Net, Pollable, Slot, SystemClock,
    attach,
};
use crate::image::{Image, ImageError, Manifest};
use crate::memory::MapError;
use crate::monitor::{self, Outcome};

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
    attachments: Vec<(String, Slot)>,
    endpoints: Vec<(String, Arc<Endpoint>)>,
    console: Option<Box<dyn Console>>,
    stop: Option<Stop>,
    /// Begun as early as possible: where the frequency is unknown it takes a while.
    cycle_frequency: Search,
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
            endpoints: Vec::new(),
            console: None,
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
    pub fn block(mut self, name: impl Into<String>, device: impl Block + 'static) -> Self {
        self.attachments.push((name.into(), Slot::Block(Box::new(device))));
        self
    }

    /// Attaches a network device under its name in the manifest.
    #[must_use]
    pub fn net(mut self, name: impl Into<String>, device: impl Net + Pollable + 'static) -> Self {
        let name = name.into();
        self.endpoints.push((name.clone(), device.endpoint()));
        self.attachments.push((name, Slot::Net(Box::new(device))));
        self
    }

    /// Sends its output elsewhere than to the standard output.
    #[must_use]
    pub fn console(mut self, console: impl Console + 'static) -> Self {
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

    /// Runs it to its end, on this thread.
    ///
    /// # Errors
    /// When it cannot be run. What the guest does once it runs is an [`Outcome`].
    pub fn run(self) -> Result<Outcome, Error> {
        let stop = self.stop.map_or_else(Stop::new, Ok).map_err(Error::Stop)?;
        let image = self.loaded.borrow_dependent();
        let mem_size = memory_size(self.memory)?;
        if mem_size != self.memory {
            log::warn!("guest memory is rounded to {} MB, a multiple of 2 MB", mem_size >> 20);
        }
        let cmdline = CommandLine::from_args(self.arguments)?;
        let poller = FdPoller::new(stop.clone(), with_handles(image.manifest(), self.endpoints));
        let Attached { slots, manifest } = attach(image.manifest(), self.attachments)?;
        let console = self.console.unwrap_or_else(|| Box::new(FdConsole::new(io::stdout(), stop.clone())));
        let mut devices = Devices { console, clock: Box::new(SystemClock), poller: Box::new(poller), slots };

        let backend = Backend::open(self.backend)?;
        log::debug!("backend {}, {} MB of memory", backend.name(), mem_size >> 20);
        let memory = backend.memory(mem_size)?;
        let frequency = backend.cycle_frequency(self.cycle_frequency)?;
        log::debug!("the guest's clock ticks at {} Hz, says {}", frequency.hz, frequency.source);
        let config = BootConfig {
            mem_size,
            cmdline: &cmdline,
            manifest: &manifest,
            cpu_cycle_freq: frequency.hz,
            net_ring: None,
        };
        let booted = Plan::new(image, config)?.load(&memory)?;
        // The guest's file is in the guest's memory by now.
        drop(self.loaded);
        let mut machine = backend.start(memory, &booted.layout, &booted.entry, &stop)?;
        Ok(monitor::run(machine.as_mut(), &booted.layout, &mut devices)?)
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

/// The endpoints whose devices the guest asks for, with their handles.
fn with_handles(manifest: &Manifest, endpoints: Vec<(String, Arc<Endpoint>)>) -> Vec<(u32, Arc<Endpoint>)> {
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
}
