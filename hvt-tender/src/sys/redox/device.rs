//! Network device on a network scheme of Redox: a descriptor with one frame per call, and a file
//! `mac` in its directory.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::device::frame_fd::FrameFd;
use crate::device::{DeviceError, Endpoint, Net, Pollable};
use crate::memory::GuestSlice;

/// Largest payload in bytes; schemes do not report an MTU.
const MTU: u16 = 1500;

/// Network scheme as a network device of the guest.
#[derive(Debug)]
pub struct SchemeNet {
    frames: FrameFd,
    mac: [u8; 6],
}

impl SchemeNet {
    /// Opens the scheme at `path`, for example `/scheme/network.pci-00-03.0_e1000`. The device has
    /// the hardware address `mac`, or by default that in the scheme's file `mac`.
    ///
    /// # Errors
    /// Returns an [`io::Error`] if the scheme or its file `mac` cannot be read.
    pub fn open(path: &Path, mac: Option<[u8; 6]>) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let mac = match mac {
            Some(mac) => mac,
            None => <[u8; 6]>::try_from(fs::read(path.join("mac"))?)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "its file `mac` is not 6 bytes long"))?,
        };
        Ok(Self { frames: FrameFd::new(file.into(), format!("network scheme {}", path.display()), 0), mac })
    }

    /// Whether frames come and go without a header before them.
    #[expect(clippy::unused_self, reason = "on Linux an interface can have headers")]
    pub(crate) fn is_plain(&self) -> bool {
        true
    }
}

/// Network device that is an interface of the host.
pub(crate) type HostInterface = SchemeNet;

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
