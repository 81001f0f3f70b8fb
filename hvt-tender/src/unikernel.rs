//! Builder that loads a unikernel, attaches its devices and runs it.
//!
//! ```
//! use hvt_tender::Unikernel;
//! use hvt_tender::device::Disk;
//! use hvt_tender::Script;
//!
//! # let folder = tempfile::tempdir()?;
//! # std::env::set_current_dir(&folder)?;
//! // A unikernel that writes one block. Replace it with the file of your unikernel.
//! std::fs::write("app.hvt", Script::new().puts("ready\n").block_write("storage", 512, [7; 512]).halt(0).build())?;
//!
//! let disk = Disk::empty(1 << 20);
//! let output = Unikernel::load("app.hvt")?.mem(64 << 20).arg("--verbose").block("storage", disk.clone()).output()?;
//! assert_eq!((output.status(), output.text().as_str()), (Some(0), "ready\n"));
//! assert_eq!(disk.contents()?[512..1024], [7; 512]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub(crate) mod debugger;
mod settings;
mod start;
mod started;
mod supply;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use hvt_abi::MEM_MAX;
use self_cell::self_cell;

use self::settings::{Extras, Waits};
use self::supply::{MakeError, Supply};
use crate::backend::CancelToken;
use crate::config::{BackendChoice, DEFAULT_MEMORY};
use crate::device::{Block, Clock, Console, Net, Pollable, Slot, SystemClock};
pub(crate) use crate::error::{RunPart, UnikernelError};
use crate::host_file::open_regular;
use crate::image::{Image, ImageError, Manifest};
use crate::monitor::Outcome;
use crate::sys::host_limit;

self_cell! {
    /// ELF file, and the parsed image that borrows from it.
    struct Loaded {
        owner: Vec<u8>,
        #[covariant]
        dependent: Image,
    }
}

/// Unikernel with the configuration of its runs.
///
/// Each run takes its own devices. A device attached by value, for example with
/// [`block`](Self::block), serves one run; a further run returns [`UnikernelError::Spent`]. Two
/// kinds of devices serve every run:
///
/// * devices with shared handles ([`Block::clone_handle`], [`Console::clone_handle`],
///   [`Clock::clone_handle`]): a [`Disk`](crate::device::Disk) keeps its contents from run to run,
///   and a [`CapturedOutput`](crate::device::CapturedOutput) collects the output of all runs;
/// * devices that a function opens for each run: [`block_from`](Self::block_from),
///   [`net_from`](Self::net_from).
///
/// A clone is cheap: it shares the bytes of the file, and the devices.
///
/// ```
/// use hvt_tender::device::Disk;
/// use hvt_tender::Script;
///
/// // Replace it with Unikernel::load("app.hvt")?
/// let mut block = b"again".to_vec();
/// block.resize(512, 0);
/// let script = Script::new().block_read("storage", 0, 512).puts_read(5).block_write("storage", 0, block).halt(0);
/// let unikernel = script.unikernel()?;
///
/// // One disk for all runs: the second run reads what the first run wrote.
/// let shared = unikernel.clone().block("storage", Disk::from_bytes(*b"first"));
/// assert_eq!([shared.output()?.text(), shared.output()?.text()], ["first", "again"]);
///
/// // A new disk for each run.
/// let fresh = unikernel.block_from("storage", || std::io::Result::Ok(Disk::from_bytes(*b"first")));
/// assert_eq!([fresh.output()?.text(), fresh.output()?.text()], ["first", "first"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Unikernel {
    loaded: Arc<Loaded>,
    memory: u64,
    arguments: Vec<Vec<u8>>,
    backend: BackendChoice,
    attachments: Vec<(String, Attachment)>,
    console: Option<Supply<Box<dyn Console + Send>>>,
    clock: Option<Supply<Box<dyn Clock + Send>>>,
    cancel_token: Option<Supply<CancelToken>>,
    extras: Extras,
}

/// Device that moves to the guest's thread together with the guest.
#[derive(Clone)]
enum Attachment {
    Block(Supply<Box<dyn Block + Send>>),
    Net(Supply<(Box<dyn Net + Send>, Waits)>),
}

/// Devices of one run, with their names in the manifest.
struct Taken {
    slots: Vec<(String, Slot)>,
    waits: Vec<(String, Waits)>,
}

impl Taken {
    /// Takes the devices for a run.
    fn from(attachments: Vec<(String, Attachment)>) -> Result<Self, UnikernelError> {
        let mut taken = Self { slots: Vec::new(), waits: Vec::new() };
        for (name, attachment) in attachments {
            let slot = match attachment {
                Attachment::Block(supply) => Slot::Block(supply.take(|| RunPart::Block { name: name.clone() })?),
                Attachment::Net(supply) => {
                    let (device, waits) = supply.take(|| RunPart::Net { name: name.clone() })?;
                    taken.waits.push((name.clone(), waits));
                    Slot::Net(device)
                }
            };
            taken.slots.push((name, slot));
        }
        Ok(taken)
    }
}

/// Returns a network device with the endpoint on which a guest waits for it.
fn with_waits(device: impl Net + Pollable + Send + 'static) -> (Box<dyn Net + Send>, Waits) {
    let waits = Waits::of(&device);
    (Box::new(device), waits)
}

impl fmt::Debug for Unikernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arguments: Vec<_> = self.arguments.iter().map(|argument| String::from_utf8_lossy(argument)).collect();
        let attached = self.attachments.iter().map(|(name, attachment)| match attachment {
            Attachment::Block(_) => RunPart::Block { name: name.clone() },
            Attachment::Net(_) => RunPart::Net { name: name.clone() },
        });
        f.debug_struct("Unikernel")
            .field("manifest", self.manifest())
            .field("memory", &self.memory)
            .field("arguments", &arguments)
            .field("backend", &self.backend)
            .field("attached", &attached.collect::<Vec<_>>())
            .field("console", &self.console)
            .field("clock", &self.clock)
            .field("cancel_token", &self.cancel_token)
            .field("extras", &self.extras)
            .finish()
    }
}

impl Unikernel {
    /// Reads and checks the file of a unikernel.
    ///
    /// # Errors
    /// Returns [`UnikernelError::Read`] if the file cannot be read or is not a regular file, and
    /// [`UnikernelError::Image`] if it is not a unikernel that this tender can run.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, UnikernelError> {
        Self::load_with_file(path.as_ref(), None).map(|(unikernel, _)| unikernel)
    }

    /// Like [`load`](Self::load), but returns the open file as well. If another process holds a
    /// lease on the file, the wait for the lease ends with an error when `stop` is requested.
    pub(crate) fn load_with_file(path: &Path, stop: Option<&CancelToken>) -> Result<(Self, File), UnikernelError> {
        let extras = Extras::begin();
        let (file, bytes) = read(path, stop).map_err(|source| UnikernelError::Read { path: path.into(), source })?;
        let unikernel = Self::parse(bytes, extras);
        Ok((unikernel.map_err(|source| UnikernelError::Image { path: path.into(), source })?, file))
    }

    /// Checks the bytes of a unikernel's ELF file.
    ///
    /// # Errors
    /// Returns [`ImageError`] if the file is not a unikernel that this tender can run.
    pub fn from_bytes(file: Vec<u8>) -> Result<Self, ImageError> {
        Self::parse(file, Extras::begin())
    }

    fn parse(file: Vec<u8>, extras: Extras) -> Result<Self, ImageError> {
        let loaded = Loaded::try_new(file, |file| Image::parse(file))?;
        Ok(Self {
            loaded: Arc::new(loaded),
            memory: DEFAULT_MEMORY,
            arguments: Vec::new(),
            backend: BackendChoice::Auto,
            attachments: Vec::new(),
            console: None,
            clock: None,
            cancel_token: None,
            extras,
        })
    }

    /// Returns the manifest, which declares the devices of the unikernel.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.loaded.borrow_dependent().manifest()
    }

    /// Sets the size of the guest memory in bytes, rounded down to a multiple of 2 MiB (default:
    /// 512 MiB).
    #[must_use]
    pub fn mem(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Adds an argument to the guest's command line.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<Vec<u8>>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments to the guest's command line.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item: Into<Vec<u8>>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Attaches a block device. `name` is its name in the manifest.
    #[must_use]
    pub fn block(mut self, name: impl Into<String>, device: impl Block + Send + 'static) -> Self {
        let device: Box<dyn Block + Send> = Box::new(device);
        let supply = Supply::value(device, |device| device.clone_handle());
        self.attachments.push((name.into(), Attachment::Block(supply)));
        self
    }

    /// Attaches a block device that `make` opens for each run. `name` is its name in the manifest. If
    /// `make` fails, the run returns [`UnikernelError::Make`].
    #[must_use]
    pub fn block_from<D: Block + Send + 'static, E: Into<MakeError>>(
        mut self,
        name: impl Into<String>,
        make: impl Fn() -> Result<D, E> + Send + Sync + 'static,
    ) -> Self {
        let make = move || make().map(|device| -> Box<dyn Block + Send> { Box::new(device) });
        self.attachments.push((name.into(), Attachment::Block(Supply::factory(make))));
        self
    }

    /// Attaches a network device. `name` is its name in the manifest.
    #[must_use]
    pub fn net(mut self, name: impl Into<String>, device: impl Net + Pollable + Send + 'static) -> Self {
        self.attachments.push((name.into(), Attachment::Net(Supply::once(with_waits(device)))));
        self
    }

    /// Attaches a network device that `make` opens for each run. `name` is its name in the manifest.
    /// If `make` fails, the run returns [`UnikernelError::Make`].
    ///
    /// ```
    /// use hvt_tender::network::Switch;
    /// use hvt_tender::Script;
    ///
    /// let switch = Switch::new();
    /// let peer = switch.port()?;
    /// let unikernel = Script::new().net_write("service", [0xff; 60]).halt(0).unikernel()?;
    /// let unikernel = unikernel.net_from("service", move || switch.port());
    /// for _ in 0..2 {
    ///     unikernel.output()?.assert_success();
    ///     assert_eq!(peer.try_receive(), Some(vec![0xff; 60]));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn net_from<D: Net + Pollable + Send + 'static, E: Into<MakeError>>(
        mut self,
        name: impl Into<String>,
        make: impl Fn() -> Result<D, E> + Send + Sync + 'static,
    ) -> Self {
        let make = move || make().map(with_waits);
        self.attachments.push((name.into(), Attachment::Net(Supply::factory(make))));
        self
    }

    /// Sets the console of the guest (default: standard output).
    #[must_use]
    pub fn console(mut self, console: impl Console + Send + 'static) -> Self {
        let console: Box<dyn Console + Send> = Box::new(console);
        self.console = Some(Supply::value(console, |console| console.clone_handle()));
        self
    }

    /// Selects the backend that runs the guest (default: automatic).
    #[must_use]
    pub fn backend(mut self, backend: BackendChoice) -> Self {
        self.backend = backend;
        self
    }

    /// Sets the token that ends the run when it is requested. A token serves one run: a further
    /// run with it returns [`UnikernelError::Spent`].
    #[must_use]
    pub fn cancel_token(mut self, cancel_token: CancelToken) -> Self {
        self.cancel_token = Some(Supply::once(cancel_token));
        self
    }

    /// Sets the wall clock of the guest (default: the wall clock of the host).
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + Send + 'static) -> Self {
        let clock: Box<dyn Clock + Send> = Box::new(clock);
        self.clock = Some(Supply::value(clock, |clock| clock.clone_handle()));
        self
    }

    /// Runs the guest to its end on the calling thread.
    ///
    /// # Errors
    /// Returns [`UnikernelError`] if the guest cannot be started, the backend fails, or a block
    /// device cannot be flushed. A fault of the guest is not an error, but an [`Outcome`].
    pub fn run(&self) -> Result<Outcome, UnikernelError> {
        self.clone().run_once()
    }

    /// Like [`run`](Self::run), but frees the bytes of the file before the guest's first instruction.
    pub(crate) fn run_once(self) -> Result<Outcome, UnikernelError> {
        let stop = self.run_token()?;
        self.start(stop, None)?.run(None)
    }

    /// Returns the cancel token of a run: the token that the user has set, or a new token.
    fn run_token(&self) -> Result<CancelToken, UnikernelError> {
        let token = match &self.cancel_token {
            Some(token) => token.take(|| RunPart::CancelToken)?,
            None => CancelToken::new().map_err(UnikernelError::Stop)?,
        };
        // A clone of the token may have served a run of another unikernel.
        if !token.claim() {
            return Err(UnikernelError::Spent { part: RunPart::CancelToken });
        }
        host_limit::make_room_for_descriptors(&token);
        Ok(token)
    }

    /// Returns the wall clock of a run.
    fn take_clock(clock: Option<Supply<Box<dyn Clock + Send>>>) -> Result<Box<dyn Clock + Send>, UnikernelError> {
        clock.map_or_else(|| Ok(Box::new(SystemClock) as _), |clock| clock.take(|| RunPart::Clock))
    }

    /// Returns the console of a run, if the user has set one.
    fn take_console(
        console: Option<Supply<Box<dyn Console + Send>>>,
    ) -> Result<Option<Box<dyn Console + Send>>, UnikernelError> {
        console.map(|console| console.take(|| RunPart::Console)).transpose()
    }
}

/// Replaces device names by the handles of the manifest. Values with a name that is not in the
/// manifest are dropped.
fn with_handles<T>(manifest: &Manifest, named: Vec<(String, T)>) -> Vec<(u32, T)> {
    let handle = |name: &str| (1..).zip(manifest.devices()).find(|(_, device)| device.name == name);
    named.into_iter().filter_map(|(name, value)| Some((handle(&name)?.0, value))).collect()
}

/// Opens and reads a regular file. Other kinds of files are rejected, because they may be endless.
fn read(path: &Path, stop: Option<&CancelToken>) -> io::Result<(File, Vec<u8>)> {
    let mut file = open_regular(path, stop)?;
    if file.metadata()?.len() > MEM_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than any guest's memory"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok((file, bytes))
}

#[cfg(test)]
mod tests;
