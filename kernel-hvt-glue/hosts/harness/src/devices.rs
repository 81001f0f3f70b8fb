//! Devices that live in memory: a disk, and wires that end in this program.

use alloc::{collections::VecDeque, rc::Rc, sync::Arc, vec, vec::Vec};
use core::cell::RefCell;

use hvt_core::{
    device::{Block, Console, DeviceError, Net},
    memory::GuestSlice,
};
use spin::Mutex;

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
type Queue = Arc<Mutex<VecDeque<Vec<u8>>>>;

/// Frames that wait for one end of a wire at most; more are dropped, as a network does.
const QUEUE_MAX: usize = 256;

/// One end of a wire that carries Ethernet frames. The ends may be in different threads.
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
        !self.incoming.lock().is_empty()
    }

    /// Sends a frame to the other end.
    pub fn send(&self, frame: Vec<u8>) {
        let mut queue = self.outgoing.lock();
        if queue.len() < QUEUE_MAX {
            queue.push_back(frame);
        }
    }

    /// Takes the oldest frame that is waiting here.
    #[must_use]
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.incoming.lock().pop_front()
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

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;
    use core::ptr::NonNull;

    use hvt_abi::{Gpa, GuestRange, PAGE_SIZE};
    use hvt_core::memory::{Access, Chunk, GuestMemory, GuestSpace, Layout, Region};

    use super::*;

    /// Guest memory of two pages that do not lie side by side in the host.
    struct Pages([NonNull<u8>; 2]);

    impl Pages {
        fn new() -> Self {
            Self([(); 2].map(|()| NonNull::from(Box::leak(Box::new([0u8; PAGE_SIZE as usize]))).cast()))
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            for page in self.0 {
                // SAFETY: leaked by `new`, and no chunk outlives its memory.
                drop(unsafe { Box::from_raw(page.cast::<[u8; PAGE_SIZE as usize]>().as_ptr()) });
            }
        }
    }

    impl GuestMemory for Pages {
        fn size(&self) -> u64 {
            2 * PAGE_SIZE
        }

        fn chunk(&self, range: GuestRange) -> Option<Chunk<'_>> {
            let (page, offset) = (range.start().0 / PAGE_SIZE, range.start().0 % PAGE_SIZE);
            let len = range.len().min(PAGE_SIZE - offset) as usize;
            let page = self.0.get(page as usize).filter(|_| len > 0)?;
            // SAFETY: inside the page, which lives as long as `self`, and to which there is no reference.
            Some(unsafe { Chunk::new(page.add(offset as usize), len) })
        }
    }

    /// Hands `act` a guest's buffer of `len` bytes that reaches from one page into the other.
    fn with_buffer<R>(memory: &Pages, len: u64, act: impl FnOnce(GuestSlice<'_>) -> R) -> R {
        let access = Access::READ | Access::WRITE;
        let layout = Layout::new([Region { range: GuestRange::new(Gpa(0), 2 * PAGE_SIZE).unwrap(), access }]).unwrap();
        let slice = GuestSpace::new(memory, &layout).slice(Gpa(PAGE_SIZE - len / 2), len, access).unwrap();
        act(slice)
    }

    #[test]
    fn a_disk_holds_what_is_written() {
        let memory = Pages::new();
        let mut disk = RamDisk::new(vec![0; 4096], 512);
        assert_eq!((disk.capacity(), disk.block_size()), (4096, 512));
        let written: Vec<u8> = (0..1024).map(|index| (index % 251) as u8).collect();
        with_buffer(&memory, 1024, |buffer| {
            buffer.write(&written);
            disk.write(2048, buffer)
        })
        .unwrap();
        disk.inspect(|bytes| {
            assert_eq!(bytes[2048..3072], written);
            assert!(bytes[..2048].iter().chain(&bytes[3072..]).all(|byte| *byte == 0));
        });
        let mut read = vec![0; 1024];
        with_buffer(&memory, 1024, |buffer| {
            buffer.write(&[0xff; 1024]);
            disk.read(2048, buffer).unwrap();
            buffer.read(&mut read);
        });
        assert_eq!(read, written);
    }

    #[test]
    fn a_disk_ends_where_it_ends() {
        let memory = Pages::new();
        let mut disk = RamDisk::new(vec![0; 4096], 512);
        for offset in [3584, 4096, u64::MAX] {
            assert!(with_buffer(&memory, 1024, |buffer| disk.read(offset, buffer)).is_err());
            assert!(with_buffer(&memory, 1024, |buffer| disk.write(offset, buffer)).is_err());
        }
    }

    #[test]
    fn frames_reach_the_other_end_in_order() {
        let memory = Pages::new();
        let (near, far) = Wire::pair();
        let mut device = WireNet::new(near.clone(), [2, 0, 0, 0, 0, 1], 1500);
        for byte in [1, 2] {
            with_buffer(&memory, 60, |buffer| {
                buffer.write(&[byte; 60]);
                device.send(buffer)
            })
            .unwrap();
        }
        assert_eq!([far.receive(), far.receive(), far.receive()], [Some(vec![1; 60]), Some(vec![2; 60]), None]);
        assert!(!near.is_ready());
        far.send(vec![3; 100]);
        assert!(near.is_ready());
        // A buffer that is too short gets the beginning.
        let received = with_buffer(&memory, 60, |buffer| device.receive(buffer).unwrap());
        assert_eq!((received, near.is_ready()), (Some(60), false));
        assert_eq!(with_buffer(&memory, 60, |buffer| device.receive(buffer)), Ok(None));
    }

    #[test]
    fn a_wire_drops_what_is_too_long_or_too_much() {
        let memory = Pages::new();
        let (near, far) = Wire::pair();
        let mut device = WireNet::new(near, [2, 0, 0, 0, 0, 1], 1500);
        with_buffer(&memory, 1519, |buffer| device.send(buffer)).unwrap();
        assert!(!far.is_ready());
        for _ in 0..=QUEUE_MAX {
            with_buffer(&memory, 60, |buffer| device.send(buffer)).unwrap();
        }
        assert_eq!(core::iter::from_fn(|| far.receive()).count(), QUEUE_MAX);
    }

    #[test]
    fn a_transcript_keeps_what_is_said_up_to_a_limit() {
        let memory = Pages::new();
        let mut transcript = Transcript::default();
        let kept = transcript.clone();
        for _ in 0..=TRANSCRIPT_MAX / 1024 {
            with_buffer(&memory, 1024, |buffer| {
                buffer.write(&[b'x'; 1024]);
                transcript.write(buffer);
            });
        }
        assert_eq!(kept.bytes(), vec![b'x'; TRANSCRIPT_MAX]);
    }
}
