//! Errors of a unikernel that cannot run.

use std::env::consts::{ARCH, OS};
use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::backend::{self, Unavailable};
use crate::boot::{BootError, CommandLineError};
use crate::config::MemoryOutOfRange;
use crate::device::AttachError;
use crate::image::ImageError;
use crate::memory::MapError;
use crate::sandbox::{IdentityError, SandboxError};

/// Error of a unikernel that cannot run. The message is one line, which
/// [`ErrorChain`](crate::ErrorChain) completes with the causes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnikernelError {
    /// The unikernel's file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the host.
        source: io::Error,
    },
    /// The file is not a unikernel that this tender can run.
    #[error("{}", path.display())]
    Image {
        /// Path of the file.
        path: PathBuf,
        /// Error in the file.
        source: ImageError,
    },
    /// The requested size of guest memory is out of range.
    #[error(transparent)]
    MemorySize(#[from] MemoryOutOfRange),
    /// The arguments cannot be passed to the guest.
    #[error(transparent)]
    Arguments(#[from] CommandLineError),
    /// The attached devices do not match the manifest.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The unikernel does not fit into its memory.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The backend is unavailable on this machine.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// Guest memory cannot be mapped.
    #[error(transparent)]
    Memory(#[from] MapError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] backend::BackendError),
    /// The user or the root directory cannot be changed.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The tender cannot be confined.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A block device could not be flushed, so written data may be lost. The log names the device.
    #[error("a block device failed: data written by the unikernel may be lost")]
    Unsynced,
    /// The host has no free descriptor for an event.
    #[error("cannot create an event")]
    Stop(#[source] io::Error),
    /// The host cannot create the guest's thread, or the thread panicked.
    #[error("cannot run the guest on a thread")]
    Thread(#[source] io::Error),
    /// A part of the run has served another run.
    #[error("{part}: used by another run: give each run its own")]
    Spent {
        /// The part.
        part: RunPart,
    },
    /// The function that makes a device for each run failed.
    #[error("{part}: cannot be made")]
    Make {
        /// The device.
        part: RunPart,
        /// The function's error.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A guest in virtual time has a network device that runs in real time.
    #[error("network device '{name}' does not run in virtual time: use a port of a link or switch in virtual time")]
    NotVirtual {
        /// Name of the device.
        name: String,
    },
    /// The backend does not support a requested feature.
    #[error("backend {backend} does not support {what}{}", elsewhere())]
    Unsupported {
        /// Name of the backend, as in `--backend`.
        backend: &'static str,
        /// Requested feature.
        what: &'static str,
    },
}

/// A part of a run that a [`Unikernel`](crate::Unikernel) was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunPart {
    /// A block device.
    Block {
        /// Its name in the manifest.
        name: String,
    },
    /// A network device.
    Net {
        /// Its name in the manifest.
        name: String,
    },
    /// The console.
    Console,
    /// The wall clock.
    Clock,
    /// The sink of the trace.
    Trace,
    /// The debugger.
    Debugger,
    /// The cancel token.
    CancelToken,
}

impl fmt::Display for RunPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block { name } => write!(f, "block device '{name}'"),
            Self::Net { name } => write!(f, "net device '{name}'"),
            Self::Console => f.write_str("console"),
            Self::Clock => f.write_str("clock"),
            Self::Trace => f.write_str("trace"),
            Self::Debugger => f.write_str("debugger"),
            Self::CancelToken => f.write_str("cancel token"),
        }
    }
}

/// Returns the hint, for messages, that another backend supports the feature.
fn elsewhere() -> &'static str {
    match (OS, ARCH) {
        ("linux", "x86_64") => "; the process backend does",
        _ => "",
    }
}
