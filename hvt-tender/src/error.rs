//! Why a unikernel cannot be run.

use std::env::consts::{ARCH, OS};
use std::io;
use std::path::PathBuf;

use crate::backend::{self, Unavailable};
use crate::boot::{BootError, CommandLineError};
use crate::config::MemoryOutOfRange;
use crate::device::AttachError;
use crate::image::ImageError;
use crate::memory::MapError;
#[cfg(target_os = "linux")]
use crate::sandbox::{IdentityError, SandboxError};
use crate::sys::host_limit::Advice;

/// Why a unikernel cannot be run. The message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnikernelError {
    /// Its file cannot be read.
    #[error("cannot read {}: {source}{}", path.display(), Advice::on(source))]
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
    Backend(#[from] backend::BackendError),
    /// The tender cannot become who it was told to become.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The tender cannot be confined.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// What it wrote may not have reached a disk; which one went to the log.
    #[error("a block device failed: not all that the unikernel has written may be there")]
    Unsynced,
    /// The host has no descriptor left.
    #[error("cannot make an event: {}{}", _0, Advice::on(_0))]
    Stop(io::Error),
    /// The host has no thread left for the guest, or the thread panicked.
    #[error("cannot run the guest on a thread: {}{}", _0, Advice::on(_0))]
    Thread(io::Error),
    /// A guest in virtual time is to have a network that is not.
    #[error("network device '{name}' does not live in virtual time: take the port of a link or switch that does")]
    NotVirtual {
        /// Name of the device.
        name: String,
    },
    /// The backend cannot do what was asked for.
    #[error("backend {backend} does not support {what}{}", elsewhere())]
    Unsupported {
        /// Name of the backend, as in `--backend`.
        backend: &'static str,
        /// What was asked for.
        what: &'static str,
    },
}

/// Names the backend that supports what another one does not, for messages.
fn elsewhere() -> &'static str {
    match (OS, ARCH) {
        ("linux", "x86_64") => "; the process backend does",
        _ => "",
    }
}
