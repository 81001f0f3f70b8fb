//! Packet capture of a network device.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::pcap::Pcap;
use super::{HEADER, VLAN_TAG};
use crate::device::{Arrivals, Descriptor, DeviceError, Endpoint, HelperThread, Net, Pollable, Uses};
use crate::memory::GuestSlice;
use crate::record_file::RecordFile;

/// Network device whose frames are also written to a pcap file.
///
/// It wraps any device, such as a [`Tap`](crate::device::Tap). For a [`Port`](super::Port), use
/// [`Port::with_pcap`](super::Port::with_pcap).
///
/// ```no_run
/// use hvt_tender::Unikernel;
/// use hvt_tender::device::Tap;
/// use hvt_tender::network::Recorded;
///
/// let device = Recorded::new(Tap::attach("tap0".as_ref(), None)?, "tap0.pcap")?;
/// Unikernel::load("app.hvt")?.net("service", device).run()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Recorded<D> {
    device: D,
    pcap: Option<Pcap>,
}

impl<D> Recorded<D> {
    /// Records the frames of `device` in the file `path`, which is created or truncated.
    ///
    /// # Errors
    /// Returns the error of open(2) or write(2) if the file cannot be created or written.
    pub fn new(device: D, path: impl AsRef<Path>) -> io::Result<Self> {
        Self::to(device, RecordFile::create(path.as_ref(), None)?)
    }

    /// Records the frames of `device` in an open file.
    ///
    /// # Errors
    /// Returns the error of write(2).
    pub(crate) fn to(device: D, file: RecordFile) -> io::Result<Self> {
        Ok(Self { device, pcap: Some(Pcap::new(file)?) })
    }

    fn record(&mut self, frame: GuestSlice<'_>) {
        /// Maximum size of a frame at the largest MTU. No device accepts a longer frame.
        const LONGEST: u64 = (HEADER + VLAN_TAG + u16::MAX as usize) as u64;
        let Some(pcap) = &mut self.pcap else { return };
        let bytes = frame.prefix(LONGEST).to_vec();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Err(error) = pcap.record(now, &bytes) {
            log::warn!("pcap: cannot write frame, recording stopped: {error}");
            self.pcap = None;
        }
    }
}

impl<D: Pollable> Pollable for Recorded<D> {
    fn endpoint(&self) -> Arc<Endpoint> {
        self.device.endpoint()
    }

    fn arrivals(&self) -> Option<Arc<dyn Arrivals>> {
        self.device.arrivals()
    }
}

impl<D: Net> Net for Recorded<D> {
    fn mac(&self) -> [u8; 6] {
        self.device.mac()
    }

    fn mtu(&self) -> u16 {
        self.device.mtu()
    }

    fn send(&mut self, frame: GuestSlice<'_>) -> Result<(), DeviceError> {
        self.device.send(frame)?;
        self.record(frame);
        Ok(())
    }

    fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError> {
        let received = self.device.receive(into)?;
        if let Some(len) = received {
            self.record(into.prefix(len));
        }
        Ok(received)
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        let mut all = self.device.descriptors();
        all.extend(self.pcap.as_ref().map(|pcap| Descriptor::new(pcap.file(), Uses::WRITE)));
        all
    }

    fn helper_threads(&self) -> Vec<&dyn HelperThread> {
        self.device.helper_threads()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Buffer;
    use crate::network::Link;

    #[test]
    fn holds_what_the_device_has_carried() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (port, peer) = Link::new().ports().unwrap();
        let mut recorded = Recorded::new(port, file.path()).unwrap();
        assert_eq!((recorded.mtu(), recorded.mac()), (1500, [2, 0, 0, 0, 0, 1]));
        Buffer::of(&[1; 60]).in_pieces(|slice| recorded.send(slice)).unwrap();
        assert!(Buffer::of(&[2; 13]).with(|slice| recorded.send(slice)).is_err(), "no frame, and no record");
        let buffer = Buffer::zeroed(5000);
        assert_eq!(buffer.in_pieces(|slice| recorded.receive(slice)), Ok(None));
        peer.send(&[3; 1500]).unwrap();
        assert_eq!(buffer.in_pieces(|slice| recorded.receive(slice)), Ok(Some(1500)));
        let recording = std::fs::read(file.path()).unwrap();
        assert_eq!(recording.len(), 24 + 16 + 60 + 16 + 1500);
        assert_eq!((&recording[40..100], &recording[116..]), (&[1; 60][..], &[3; 1500][..]));
        assert!(Recorded::new(peer, "/nothing/here").is_err());
    }
}
