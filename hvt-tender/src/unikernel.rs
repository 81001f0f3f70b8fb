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
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hvt_abi::{BOOT_INFO_BASE, BootInfo, Gpa, MEM_MAX};
use self_cell::self_cell;

use crate::backend::auto::Backend;
use crate::backend::tsc::Search;
use crate::backend::{self, Stop, Unavailable};
use crate::boot::{BootConfig, BootError, CommandLine, CommandLineError, Plan};
use crate::config::{BackendChoice, DEFAULT_MEMORY, MemoryOutOfRange, memory_size};
use crate::core_dump::CoreDump;
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
    core_dump: Option<CoreDump>,
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
            core_dump: None,
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

    /// Leaves a core file behind when it crashes.
    #[must_use]
    pub fn core_dump(mut self, dump: CoreDump) -> Self {
        self.core_dump = Some(dump);
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
        let known = backend.cycle_frequency().transpose()?;
        let cpu_cycle_freq = known.map_or(0, |frequency| frequency.hz);
        let config = BootConfig { mem_size, cmdline: &cmdline, manifest: &manifest, cpu_cycle_freq, net_ring: None };
        let booted = Plan::new(image, config)?.load(&memory)?;
        // The guest's file is in the guest's memory by now.
        drop(self.loaded);
        let mut machine = backend.start(memory, &booted.layout, &booted.entry, &stop)?;
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
        let ended = monitor::run(machine.as_mut(), &booted.layout, &mut devices);
        let synced = devices.sync();
        if let (Ok(outcome), Some(dump)) = (&ended, &self.core_dump) {
            dump.write(outcome, machine.as_ref());
        }
        match (ended?, synced) {
            // What a guest takes for written must not be lost in silence.
            (Outcome::Exited { .. }, Err(_)) => Err(Error::Unsynced),
            (outcome, _) => Ok(outcome),
        }
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
    /// What it wrote may not have reached a disk; which one went to the log.
    #[error("a block device failed: not all that the unikernel has written may be there")]
    Unsynced,
    /// The host has no descriptor left.
    #[error("cannot make an event: {0}")]
    Stop(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::thread;

    use goblin::elf::program_header::{PF_R, PF_W, PF_X};
    use hvt_abi::hypercall::{BlockIo, Halt, Number, Poll, Puts};
    use hvt_abi::manifest::Kind;
    use hvt_abi::x86_64::HYPERCALL_PORT;
    use zerocopy::IntoBytes;

    use crate::device::DeviceError;
    use crate::device::fake::Fake;
    use crate::image::fixture::{Elf, MANIFEST_PART, Part, TEXT, manifest};
    use crate::memory::GuestSlice;

    /// Where the guests of these tests have their arguments, one every 256 bytes, and a buffer behind them.
    const DATA: u64 = TEXT + 0x1000;
    const BUFFER: u64 = DATA + 0x1000;

    /// A guest that makes these hypercalls, one after the other.
    fn guest(devices: &[(&str, Kind)], calls: &[(Number, &[u8])]) -> Unikernel {
        let (mut text, mut data) = (Vec::new(), vec![0; 0x2000]);
        for (index, (number, argument)) in calls.iter().enumerate() {
            let at = index * 256;
            data[at..at + argument.len()].copy_from_slice(argument);
            text.push(0xb8); // mov eax, imm32
            text.extend((DATA as u32 + at as u32).to_le_bytes());
            text.push(0xba); // mov edx, imm32
            text.extend((u32::from(HYPERCALL_PORT) + *number as u32).to_le_bytes());
            text.push(0xef); // out dx, eax
        }
        text.extend([0xeb, 0xfe]); // jmp to itself
        let mut elf = Elf::with_segments([
            Part::load(PF_R | PF_X, TEXT, 0x1000, text),
            Part::load(PF_R | PF_W, DATA, 0x2000, data),
        ]);
        let notes = Elf::unikernel(devices).parts.swap_remove(MANIFEST_PART);
        elf.parts.pop();
        elf.parts.push(notes);
        let unikernel = Unikernel::from_bytes(elf.build()).unwrap();
        unikernel.backend(BackendChoice::Process).mem(4 << 20)
    }

    #[test]
    fn runs_with_the_devices_that_it_is_given() {
        let fake = Fake::new();
        let read = BlockIo { handle: 1, offset: 512, data: Gpa(BUFFER), len: 1024, ..BlockIo::default() };
        let puts = Puts { data: Gpa(BUFFER), len: 1024 };
        let halt = Halt { exit_status: -2, ..Halt::default() };
        let calls: &[(Number, &[u8])] =
            &[(Number::BlockRead, read.as_bytes()), (Number::Puts, puts.as_bytes()), (Number::Halt, halt.as_bytes())];
        let unikernel = guest(&[("storage", Kind::Block)], calls);
        assert_eq!(unikernel.manifest().devices()[0].name, "storage");
        let outcome = unikernel.block("storage", fake.clone()).console(fake.clone()).run().unwrap();
        assert_eq!(outcome, Outcome::Exited { status: -2, cookie: None });
        let world = fake.0.borrow();
        assert_eq!(world.console, world.disk[512..512 + 1024]);
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

    /// A disk that passes on what is done with it, and cannot be synchronised.
    struct Lossy(Sender<&'static str>);

    impl Block for Lossy {
        fn capacity(&self) -> u64 {
            512
        }

        fn block_size(&self) -> u16 {
            512
        }

        fn read(&mut self, _: u64, _: GuestSlice<'_>) -> Result<(), DeviceError> {
            Err(DeviceError)
        }

        fn write(&mut self, _: u64, _: GuestSlice<'_>) -> Result<(), DeviceError> {
            self.0.send("write").map_err(|_| DeviceError)
        }

        fn sync(&mut self) -> Result<(), DeviceError> {
            self.0.send("sync").unwrap();
            Err(DeviceError)
        }
    }

    #[test]
    fn disks_are_synchronised_however_a_guest_ends() {
        let write = BlockIo { handle: 1, data: Gpa(BUFFER), len: 512, ..BlockIo::default() };
        let halt = Halt::default();
        let (write, halt) = ((Number::BlockWrite, write.as_bytes()), (Number::Halt, halt.as_bytes()));
        // There is no memory at address 8: the guest is stopped.
        let puts = Puts { data: Gpa(8), len: 200 };
        let run = |last| {
            let (sender, done) = channel();
            let unikernel = guest(&[("storage", Kind::Block)], &[write, last]).block("storage", Lossy(sender));
            (unikernel.run(), done.into_iter().collect::<Vec<_>>())
        };
        let (ended, done) = run(halt);
        assert!(matches!(ended, Err(Error::Unsynced)) && done == ["write", "sync"], "{done:?}");
        let (ended, done) = run((Number::Puts, puts.as_bytes()));
        assert!(matches!(ended, Ok(Outcome::Failed(_))) && done == ["write", "sync"], "{done:?}");
        let (sender, done) = channel();
        let stop = Stop::new().unwrap();
        stop.request();
        let unikernel = guest(&[("storage", Kind::Block)], &[]).block("storage", Lossy(sender)).stop(stop);
        assert_eq!(unikernel.run().unwrap(), Outcome::Interrupted);
        assert_eq!(done.into_iter().collect::<Vec<_>>(), ["sync"]);
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
