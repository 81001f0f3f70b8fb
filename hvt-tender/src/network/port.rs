//! One end of a network.

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

/// Where the frames go that a port sends.
pub(super) trait Medium: Send + Sync {
    /// Carries a frame from the port with this number.
    fn carry(&self, from: usize, frame: &[u8]);

    /// Returns whether a round of `frames` from this port finds room. If not, the port is woken once there is some.
    #[cfg(feature = "smoltcp")]
    fn admits(&self, _from: usize, _frames: usize) -> bool {
        true
    }

    /// Returns whether the next frame from this port would find no room.
    #[cfg(feature = "smoltcp")]
    fn is_full(&self, _from: usize) -> bool {
        false
    }

    /// Sets the function that wakes the owner of this port when there is room again.
    #[cfg(feature = "smoltcp")]
    fn wake_by(&self, _from: usize, _waker: Arc<dyn Fn() + Send + Sync>) {}

    /// Senders whose frames may go to the port with this number.
    fn senders(&self, to: usize) -> Senders;
}

/// One end of a network: the network device of a guest, or the test's own.
///
/// Dropping it takes it out of the network.
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

    /// Gives it this hardware address; otherwise it has 02:00:00:00:00:01, :02 and so on, in the order in which the
    /// network made its ports.
    #[must_use]
    pub fn with_mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = mac;
        self
    }

    /// Writes every frame that is sent or received here to a file, which is made or emptied, in the pcap format. In a
    /// virtual time it carries the times of that.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn with_pcap(self, path: impl AsRef<Path>) -> io::Result<Self> {
        self.recorded_to(RecordFile::create(path.as_ref(), None)?)
    }

    /// As [`with_pcap`](Self::with_pcap), to a file that is open.
    ///
    /// # Errors
    /// The error of write(2).
    pub(crate) fn recorded_to(self, file: RecordFile) -> io::Result<Self> {
        let pcap = Pcap::new(file)?;
        *self.pcap.lock().unwrap_or_else(PoisonError::into_inner) = Some(pcap);
        Ok(self)
    }

    /// Its hardware address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The virtual time in which its frames arrive.
    #[cfg(feature = "smoltcp")]
    pub(super) fn virtual_time(&self) -> Option<&crate::virtual_time::VirtualTime> {
        self.inbox.virtual_time()
    }

    /// Returns whether a round of `frames` finds room at the other end; see [`wake_by`](Self::wake_by).
    #[cfg(feature = "smoltcp")]
    pub(super) fn admits(&self, frames: usize) -> bool {
        self.medium.admits(self.number, frames)
    }

    /// Returns whether the next frame would find no room.
    #[cfg(feature = "smoltcp")]
    pub(super) fn is_full(&self) -> bool {
        self.medium.is_full(self.number)
    }

    /// Has `waker` called when there is room for a round that was not [admitted](Self::admits). On a [`Link`] alone:
    /// a switch loses what finds no room, as switches do.
    ///
    /// [`Link`]: super::Link
    #[cfg(feature = "smoltcp")]
    pub(super) fn wake_by(&self, waker: impl Fn() + Send + Sync + 'static) {
        self.medium.wake_by(self.number, Arc::new(waker));
    }

    /// Largest payload of its frames in bytes.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Sends a frame, Ethernet header first.
    ///
    /// # Errors
    /// When it is shorter than an Ethernet header, or longer than the MTU allows.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        if !(HEADER..=usize::from(self.mtu) + HEADER + VLAN_TAG).contains(&frame.len()) {
            let what = format!("{} bytes are no frame for an MTU of {}", frame.len(), self.mtu);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        self.record(frame);
        self.medium.carry(self.number, frame);
        Ok(())
    }

    /// Takes the next frame, waiting for `timeout` at most.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when none comes.
    pub fn receive(&self, timeout: Duration) -> io::Result<Vec<u8>> {
        let frame = self.inbox.wait(timeout).ok_or(io::ErrorKind::TimedOut)?;
        self.record(&frame);
        Ok(frame)
    }

    /// Takes a frame that has arrived, if there is one.
    #[must_use]
    pub fn try_receive(&self) -> Option<Vec<u8>> {
        self.inbox.take().inspect(|frame| self.record(frame))
    }

    /// Returns a function that counts the frames for this port that have found no room.
    #[cfg(all(test, feature = "smoltcp"))]
    pub(super) fn lost(&self) -> impl Fn() -> u64 + use<> {
        let inbox = self.inbox.clone();
        move || inbox.lost()
    }

    fn record(&self, frame: &[u8]) {
        let mut pcap = self.pcap.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = pcap.as_mut().map(|pcap| pcap.record(self.inbox.wall_time(), frame)) {
            log::warn!("frames are not recorded any more: {error}");
            *pcap = None;
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.inbox.set_owner(Owner::None);
    }
}

/// When frames arrive at a port.
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
        // Longer than any frame of the largest MTU is no frame, whatever the guest says.
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

    /// Its own. Those of the ports that it sends to, if there are any, are not known here.
    fn descriptors(&self) -> Vec<Descriptor> {
        let pcap = self.pcap.lock().unwrap_or_else(PoisonError::into_inner);
        let recording = pcap.as_ref().map(|pcap| Descriptor::new(pcap.file(), Uses::WRITE));
        let doorbell = Descriptor::new(&*self.inbox.endpoint(), Uses::READ | Uses::WRITE);
        recording.into_iter().chain([doorbell]).collect()
    }
}
