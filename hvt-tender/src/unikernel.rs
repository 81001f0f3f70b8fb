//! Builder that loads a unikernel, attaches its devices and runs it.
//!
//! ```
//! use hvt_tender::Unikernel;
//! use hvt_tender::device::Disk;
//! use hvt_tender::script::Script;
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

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "redox")]
mod redox;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use hvt_abi::MEM_MAX;
use self_cell::self_cell;

use self::host::{Extras, Waits};
#[cfg(target_os = "linux")]
use self::linux as host;
#[cfg(target_os = "redox")]
use self::redox as host;
use crate::backend::CancelToken;
use crate::config::{BackendChoice, DEFAULT_MEMORY};
use crate::device::{Block, Clock, Console, Net, Pollable, Slot, SystemClock};
pub use crate::error::UnikernelError;
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

/// Unikernel with its configuration, ready to run.
pub struct Unikernel {
    loaded: Loaded,
    memory: u64,
    arguments: Vec<Vec<u8>>,
    backend: BackendChoice,
    attachments: Vec<(String, Attachment)>,
    waits: Vec<(String, Waits)>,
    console: Option<Box<dyn Console + Send>>,
    clock: Box<dyn Clock + Send>,
    stop: Option<CancelToken>,
    extras: Extras,
}

/// Device that moves to the guest's thread together with the guest.
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
            loaded,
            memory: DEFAULT_MEMORY,
            arguments: Vec::new(),
            backend: BackendChoice::Auto,
            attachments: Vec::new(),
            waits: Vec::new(),
            console: None,
            clock: Box::new(SystemClock),
            stop: None,
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
        self.attachments.push((name.into(), Attachment::Block(Box::new(device))));
        self
    }

    /// Attaches a network device. `name` is its name in the manifest.
    #[must_use]
    pub fn net(mut self, name: impl Into<String>, device: impl Net + Pollable + Send + 'static) -> Self {
        let name = name.into();
        self.waits.push((name.clone(), Waits::of(&device)));
        self.attachments.push((name, Attachment::Net(Box::new(device))));
        self
    }

    /// Sets the console of the guest (default: standard output).
    #[must_use]
    pub fn console(mut self, console: impl Console + Send + 'static) -> Self {
        self.console = Some(Box::new(console));
        self
    }

    /// Selects the backend that runs the guest (default: automatic).
    #[must_use]
    pub fn backend(mut self, backend: BackendChoice) -> Self {
        self.backend = backend;
        self
    }

    /// Sets the token that ends the run when it is requested.
    #[must_use]
    pub fn stop(mut self, stop: CancelToken) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Sets the wall clock of the guest (default: the wall clock of the host).
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + Send + 'static) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// Runs the guest to its end on the calling thread.
    ///
    /// # Errors
    /// Returns [`UnikernelError`] if the guest cannot be started, the backend fails, or a block
    /// device cannot be flushed. A fault of the guest is not an error, but an [`Outcome`].
    pub fn run(mut self) -> Result<Outcome, UnikernelError> {
        let stop = self.take_stop()?;
        self.run_until(stop)
    }

    fn take_stop(&mut self) -> Result<CancelToken, UnikernelError> {
        let stop = self.stop.take().map_or_else(CancelToken::new, Ok).map_err(UnikernelError::Stop)?;
        host_limit::make_room_for_descriptors(&stop);
        Ok(stop)
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
