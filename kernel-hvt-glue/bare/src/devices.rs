//! Devices that live in memory: a disk, and wires that end in this program.

use alloc::{collections::VecDeque, rc::Rc, vec, vec::Vec};
use core::cell::RefCell;

use hvt_tender::{
    device::{Block, Console, DeviceError, Net},
    memory::GuestSlice,
};

/// A block device in memory. Clones are the same disk.
#[derive(Clone)]
pub struct RamDisk {
    bytes: Rc<RefCell<Vec<u8>>>,
    block_size: u16,
}

impl RamDisk {
    /// A disk that holds `bytes`, whose number is a multiple of `block_size`.
    #[must_use]
    pub fn new(bytes: Vec<u8>, block_size: u16) -> Self {
        Self { bytes: Rc::new(RefCell::new(bytes)), block_size }
    }

    /// Shows `look` all of its bytes.
    pub fn inspect<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        look(&self.bytes.borrow())
    }

    /// The bytes that a transfer of `len` bytes at `offset` concerns.
    fn part(bytes: &mut [u8], offset: u64, len: u64) -> Result<&mut [u8], DeviceError> {
        let start = usize::try_from(offset).map_err(|_| DeviceError)?;
        let len = usize::try_from(len).map_err(|_| DeviceError)?;
        bytes.get_mut(start..).and_then(|rest| rest.get_mut(..len)).ok_or(DeviceError)
    }
}

impl Block for RamDisk {
    fn capacity(&self) -> u64 {
        self.bytes.borrow().len() as u64
    }

    fn block_size(&self) -> u16 {
        self.block_size
    }

    fn read(&mut self, offset: u64, into: GuestSlice<'_>) -> Result<(), DeviceError> {
        into.write(Self::part(&mut self.bytes.borrow_mut(), offset, into.len())?);
        Ok(())
    }

    fn write(&mut self, offset: u64, from: GuestSlice<'_>) -> Result<(), DeviceError> {
        from.read(Self::part(&mut self.bytes.borrow_mut(), offset, from.len())?);
        Ok(())
    }
}

/// Frames on a wire that one end waits for.
type Queue = Rc<RefCell<VecDeque<Vec<u8>>>>;

/// Frames that wait for one end of a wire at most; more are dropped, as a network does.
const QUEUE_MAX: usize = 256;

/// One end of a wire that carries Ethernet frames.
#[derive(Clone, Default)]
pub struct Wire {
    incoming: Queue,
    outgoing: Queue,
}

impl Wire {
    /// Both ends of a new wire.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let near = Self::default();
        let far = Self { incoming: near.outgoing.clone(), outgoing: near.incoming.clone() };
        (near, far)
    }

    /// A wire whose ends are one: what is sent comes back.
    #[must_use]
    pub fn loopback() -> Self {
        let queue = Queue::default();
        Self { incoming: queue.clone(), outgoing: queue }
    }

    /// Whether a frame is waiting here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.incoming.borrow().is_empty()
    }

    /// Sends a frame to the other end.
    pub fn send(&self, frame: Vec<u8>) {
        let mut queue = self.outgoing.borrow_mut();
        if queue.len() < QUEUE_MAX {
            queue.push_back(frame);
        }
    }

    /// Takes the oldest frame that is waiting here.
    #[must_use]
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.incoming.borrow_mut().pop_front()
    }
}

/// A guest's network device at the end of a wire.
pub struct WireNet {
    wire: Wire,
    mac: [u8; 6],
    mtu: u16,
}

impl WireNet {
    /// A device with this hardware address and MTU.
    #[must_use]
    pub fn new(wire: Wire, mac: [u8; 6], mtu: u16) -> Self {
        Self { wire, mac, mtu }
    }
}

impl Net for WireNet {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn send(&mut self, frame: GuestSlice<'_>) -> Result<(), DeviceError> {
        /// An Ethernet header with a VLAN tag.
        const HEADER_MAX: u64 = 18;
        // A longer frame is dropped, as a network does.
        if frame.len() <= u64::from(self.mtu) + HEADER_MAX {
            let mut bytes = vec![0; frame.len() as usize];
            frame.read(&mut bytes);
            self.wire.send(bytes);
        }
        Ok(())
    }

    fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError> {
        Ok(self.wire.receive().map(|frame| into.write(&frame) as u64))
    }
}

/// What a guest has printed.
#[derive(Clone, Default)]
pub struct Transcript(Rc<RefCell<Vec<u8>>>);

/// Bytes of a guest's output that are kept; more are dropped.
const TRANSCRIPT_MAX: usize = 1 << 20;

impl Transcript {
    /// The bytes so far.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.borrow().clone()
    }
}

impl Console for Transcript {
    fn write(&mut self, data: GuestSlice<'_>) {
        let mut bytes = self.0.borrow_mut();
        let start = bytes.len();
        let len = data.len().min((TRANSCRIPT_MAX - start) as u64);
        bytes.resize(start + len as usize, 0);
        data.read(&mut bytes[start..]);
    }
}
