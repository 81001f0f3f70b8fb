//! Port of an in-memory network.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::inbox::{Inbox, Owner};
use super::pcap::Pcap;
use super::{HEADER, VLAN_TAG};
use crate::device::{Arrivals, Descriptor, DeviceError, Endpoint, Net, Pollable, Senders, Uses};
use crate::memory::GuestSlice;
use crate::record_file::RecordFile;

/// Medium that carries the frames of a port to other ports.
pub(super) trait Medium: Send + Sync {
    /// Carries a frame from port `from` to its destination ports.
    fn carry(&self, from: usize, frame: &[u8]);

    /// Returns whether the destination has room for `frames` frames from port `from`. If not, the
    /// port's waker is called once there is room.
    fn admits(&self, _from: usize, _frames: usize) -> bool {
        true
    }

    /// Returns whether the destination's queue is full, so that the next frame from port `from`
    /// would be dropped.
    fn is_full(&self, _from: usize) -> bool {
        false
    }

    /// Sets the function that wakes the owner of port `from` when the destination has room again.
    fn wake_by(&self, _from: usize, _waker: Arc<dyn Fn() + Send + Sync>) {}

    /// Returns the kind of senders whose frames may reach port `to`.
    fn senders(&self, to: usize) -> Senders;
}

/// Port of an in-memory network: the network device of a guest, or a test's endpoint.
///
/// A dropped port leaves the network.
pub struct Port {
    number: usize,
    inbox: Arc<Inbox>,
    medium: Arc<dyn Medium>,
    mac: [u8; 6],
    mtu: u16,
    pcap: Mutex<Option<Pcap>>,
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port").field("number", &self.number).field("mac", &self.mac).finish_non_exhaustive()
    }
}

impl Port {
    pub(super) fn new(number: usize, inbox: Arc<Inbox>, medium: Arc<dyn Medium>, mtu: u16) -> Self {
        Self { number, inbox, medium, mac: super::mac(number), mtu, pcap: Mutex::new(None) }
    }

    /// Sets the MAC address. The default is 02:00:00:00:00:01 for the first port of the network,
    /// 02:00:00:00:00:02 for the second, and so on.
    #[must_use]
    pub fn with_mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = mac;
        self
    }

    /// Records every frame that this port sends or receives in a pcap file. The file is created or
    /// truncated. Timestamps are virtual time if the network uses a virtual time.
    ///
    /// # Errors
    /// Returns the error of open(2) or write(2) if the file cannot be created or written.
    pub fn with_pcap(self, path: impl AsRef<Path>) -> io::Result<Self> {
        self.recorded_to(RecordFile::create(path.as_ref(), None)?)
    }

    /// Like [`with_pcap`](Self::with_pcap), but writes to an open file.
    ///
    /// # Errors
    /// Returns the error of write(2).
    pub(crate) fn recorded_to(self, file: RecordFile) -> io::Result<Self> {
        let pcap = Pcap::new(file)?;
        *self.pcap.lock().unwrap_or_else(PoisonError::into_inner) = Some(pcap);
        Ok(self)
    }

    /// Returns the MAC address of the port.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Returns the virtual time of the network, if it uses one.
    pub(super) fn virtual_time(&self) -> Option<&crate::virtual_time::VirtualTime> {
        self.inbox.virtual_time()
    }

    /// Returns whether the other end has room for `frames` frames; see [`wake_by`](Self::wake_by).
    pub(super) fn admits(&self, frames: usize) -> bool {
        self.medium.admits(self.number, frames)
    }

    /// Returns whether the other end's queue is full, so that the next frame would be dropped.
    pub(super) fn is_full(&self) -> bool {
        self.medium.is_full(self.number)
    }

    /// Calls `waker` when the other end has room for the frames that were not
    /// [admitted](Self::admits). Only a [`Link`] calls it: a switch drops frames that find no room.
    ///
    /// [`Link`]: super::Link
    pub(super) fn wake_by(&self, waker: impl Fn() + Send + Sync + 'static) {
        self.medium.wake_by(self.number, Arc::new(waker));
    }

    /// Returns the MTU, the maximum payload of a frame in bytes.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Sends an Ethernet frame, header included. A frame for which the destination has no room is
    /// dropped without an error.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if the frame is shorter than an Ethernet header, or
    /// longer than the MTU plus the Ethernet header and a VLAN tag.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        if !(HEADER..=usize::from(self.mtu) + HEADER + VLAN_TAG).contains(&frame.len()) {
            let what = format!("invalid frame length {}: MTU is {}", frame.len(), self.mtu);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        self.record(frame);
        self.medium.carry(self.number, frame);
        Ok(())
    }

    /// Receives the next frame, waiting up to `timeout` of the host's time for it.
    ///
    /// In a network with a virtual time, a frame in transit is returned immediately: the caller
    /// does not wait for the virtual time of its arrival.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::TimedOut`] if no frame arrives within `timeout`.
    pub fn receive(&self, timeout: Duration) -> io::Result<Vec<u8>> {
        let frame = self.inbox.wait(timeout).ok_or(io::ErrorKind::TimedOut)?;
        self.record(&frame);
        Ok(frame)
    }

    /// Receives the next frame if one has arrived. Does not wait.
    #[must_use]
    pub fn try_receive(&self) -> Option<Vec<u8>> {
        self.inbox.take().inspect(|frame| self.record(frame))
    }

    /// Returns a function that returns the length in bytes of the longest frame that was dropped
    /// because this port's queue was full, 0 if none was.
    #[cfg(test)]
    pub(super) fn lost(&self) -> impl Fn() -> usize + use<> {
        let inbox = self.inbox.clone();
        move || inbox.lost()
    }

    fn record(&self, frame: &[u8]) {
        let mut pcap = self.pcap.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = pcap.as_mut().map(|pcap| pcap.record(self.inbox.wall_time(), frame)) {
            log::warn!("pcap: cannot write frame, recording stopped: {error}");
            *pcap = None;
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.inbox.set_owner(Owner::None);
    }
}

/// Arrival times of a port's frames in virtual time.
struct PortArrivals {
    number: usize,
    inbox: Arc<Inbox>,
    medium: Arc<dyn Medium>,
}

impl Arrivals for PortArrivals {
    fn next(&self) -> Option<u64> {
        self.inbox.next()
    }

    fn senders(&self) -> Senders {
        self.medium.senders(self.number)
    }

    fn set_in_guest(&self, in_guest: bool) {
        self.inbox.set_owner(if in_guest { Owner::Guest } else { Owner::Other });
    }
}

impl Pollable for Port {
    fn endpoint(&self) -> Arc<Endpoint> {
        self.inbox.endpoint()
    }

    fn arrivals(&self) -> Option<Arc<dyn Arrivals>> {
        let Self { number, inbox, medium, .. } = self;
        let arrivals = || PortArrivals { number: *number, inbox: inbox.clone(), medium: medium.clone() };
        self.inbox.is_virtual().then(|| Arc::new(arrivals()) as Arc<dyn Arrivals>)
    }
}

impl Net for Port {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn send(&mut self, frame: GuestSlice<'_>) -> Result<(), DeviceError> {
        // The guest's length is untrusted: do not allocate more than a frame of the largest MTU.
        let len = usize::try_from(frame.len()).map_err(|_| DeviceError)?;
        if len > usize::from(u16::MAX) + HEADER + VLAN_TAG {
            return Err(DeviceError);
        }
        let mut bytes = vec![0; len];
        frame.read(&mut bytes);
        Self::send(self, &bytes).map_err(|_| DeviceError)
    }

    fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError> {
        if into.is_empty() {
            return Ok(None);
        }
        Ok(self.try_receive().map(|frame| into.write(&frame) as u64))
    }

    /// Returns the descriptors of this port alone. The descriptors of the destination ports are not
    /// included.
    fn descriptors(&self) -> Vec<Descriptor> {
        let pcap = self.pcap.lock().unwrap_or_else(PoisonError::into_inner);
        let recording = pcap.as_ref().map(|pcap| Descriptor::new(pcap.file(), Uses::WRITE));
        let doorbell = Descriptor::new(&*self.inbox.endpoint(), Uses::READ | Uses::WRITE);
        recording.into_iter().chain([doorbell]).collect()
    }
}
