//! Network device on a network scheme of Redox: a descriptor with one frame per call, and a file
//! `mac` in its directory.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::device::frame_fd::FrameFd;
use crate::device::{BlockOptions, BlockProblem, DeviceError, Endpoint, FileBlock, Net, OpenError, Pollable};
use crate::memory::GuestSlice;

/// Largest payload in bytes; schemes do not report an MTU.
const MTU: u16 = 1500;

/// Network scheme as a network device of the guest.
#[derive(Debug)]
pub struct SchemeNet {
    frames: FrameFd,
    mac: [u8; 6],
}

/// A network scheme cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("network scheme {}", path.display())]
pub struct SchemeNetError {
    /// Path of the scheme.
    pub path: PathBuf,
    /// Error of the system, or of the scheme's file `mac`.
    pub source: io::Error,
}

impl SchemeNet {
    /// Opens the scheme at `path`, for example `/scheme/network.pci-00-03.0_e1000`. The device has
    /// the hardware address `mac`, or by default that in the scheme's file `mac`.
    ///
    /// # Errors
    /// Returns [`SchemeNetError`] if the scheme or its file `mac` cannot be read.
    pub fn open(path: &Path, mac: Option<[u8; 6]>) -> Result<Self, SchemeNetError> {
        Self::try_open(path, mac).map_err(|source| SchemeNetError { path: path.into(), source })
    }

    fn try_open(path: &Path, mac: Option<[u8; 6]>) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let mac = match mac {
            Some(mac) => mac,
            None => <[u8; 6]>::try_from(fs::read(path.join("mac"))?)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "its file `mac` is not 6 bytes long"))?,
        };
        Ok(Self { frames: FrameFd::new(file.into(), format!("network scheme {}", path.display()), 0), mac })
    }

    /// Returns true if no header precedes the frames.
    #[expect(clippy::unused_self, reason = "on Linux an interface can have headers")]
    pub(crate) fn is_plain(&self) -> bool {
        true
    }
}

/// Network device that is an interface of the host.
pub(crate) type HostInterface = SchemeNet;
pub(crate) type HostInterfaceError = SchemeNetError;

/// Opens the network scheme at the path `name`.
pub(crate) fn open_interface(name: &OsStr, mac: Option<[u8; 6]>) -> Result<HostInterface, HostInterfaceError> {
    SchemeNet::open(Path::new(name), mac)
}

/// Fails: no descriptor of Redox carries frames without its scheme.
pub(crate) fn take_interface(_: OwnedFd, _: Option<[u8; 6]>) -> Result<HostInterface, HostInterfaceError> {
    Err(SchemeNetError { path: "inherited descriptor".into(), source: io::ErrorKind::Unsupported.into() })
}

/// A cable to another tender cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("network socket {}: not available on Redox", path.display())]
pub struct UnixNetError {
    /// Path of the socket.
    pub path: PathBuf,
}

/// Fails: Redox has no sockets that keep messages apart.
pub(crate) fn open_cable(path: PathBuf, _: Option<[u8; 6]>) -> Result<SchemeNet, UnixNetError> {
    Err(UnixNetError { path })
}

/// Fails: Redox has no direct I/O.
pub(crate) fn open_direct(path: PathBuf, _: &BlockOptions) -> Result<FileBlock, OpenError> {
    Err(OpenError::Open { path, problem: BlockProblem::NotDirect })
}

impl Pollable for SchemeNet {
    fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(self.frames.endpoint())
    }
}

impl Net for SchemeNet {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u16 {
        MTU
    }

    fn send(&mut self, frame: GuestSlice<'_>) -> Result<(), DeviceError> {
        self.frames.send(frame)
    }

    fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError> {
        self.frames.receive(into)
    }
}
