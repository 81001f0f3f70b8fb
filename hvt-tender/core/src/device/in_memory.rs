//! In-memory devices that need no operating system: a disk, a wire, and a console that keeps its
//! output.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::convert::Infallible;

use spin::Mutex;

use super::store::Store;
use super::{Block, Console, DeviceError, Net};
use crate::memory::GuestSlice;

/// A block device in memory. Clones are the same disk.
#[derive(Clone)]
pub struct RamDisk {
    store: Arc<Mutex<Store<Vec<u8>>>>,
    capacity: u64,
    block_size: u16,
}

impl RamDisk {
    /// Creates a disk with the contents `bytes`, whose length is a multiple of `block_size`.
    #[must_use]
    pub fn new(bytes: Vec<u8>, block_size: u16) -> Self {
        let capacity = bytes.len() as u64;
        Self { store: Arc::new(Mutex::new(Store::new(bytes))), capacity, block_size }
    }

    /// Returns a copy of the contents.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.capacity as usize];
        infallible(self.store.lock().read(0, &mut bytes));
        bytes
    }

    /// Returns [`DeviceError`] unless `len` bytes at `offset` lie on the disk.
    fn check(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        let end = offset.checked_add(len).ok_or(DeviceError)?;
        if end <= self.capacity { Ok(()) } else { Err(DeviceError) }
    }
}

impl Block for RamDisk {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn block_size(&self) -> u16 {
        self.block_size
    }

    fn read(&mut self, offset: u64, into: GuestSlice<'_>) -> Result<(), DeviceError> {
        self.check(offset, into.len())?;
        infallible(self.store.lock().read_to(offset, into));
        Ok(())
    }

    fn write(&mut self, offset: u64, from: GuestSlice<'_>) -> Result<(), DeviceError> {
        self.check(offset, from.len())?;
        infallible(self.store.lock().write_from(offset, from));
        Ok(())
    }
}

fn infallible<T>(result: Result<T, Infallible>) -> T {
    result.unwrap_or_else(|never| match never {})
}

/// Frames queued for one end of a wire.
type Queue = Arc<Mutex<VecDeque<Vec<u8>>>>;

/// Largest number of frames queued for one end of a wire. Further frames are dropped, as on a real
/// network.
const QUEUE_MAX: usize = 256;

/// One end of a wire that carries Ethernet frames. The ends may be in different threads.
#[derive(Clone, Default)]
pub struct Wire {
    incoming: Queue,
    outgoing: Queue,
}

impl Wire {
    /// Creates a wire and returns both ends.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let near = Self::default();
        let far = Self { incoming: near.outgoing.clone(), outgoing: near.incoming.clone() };
        (near, far)
    }

    /// Creates a wire with a single end: sent frames come back.
    #[must_use]
    pub fn loopback() -> Self {
        let queue = Queue::default();
        Self { incoming: queue.clone(), outgoing: queue }
    }

    /// Returns true if a frame is waiting at this end.
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

    /// Takes the oldest frame waiting at this end.
    #[must_use]
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.incoming.lock().pop_front()
    }
}

/// Network device of a guest at the end of a wire.
pub struct WireNet {
    wire: Wire,
    mac: [u8; 6],
    mtu: u16,
}

impl WireNet {
    /// Creates a device with this hardware address and MTU.
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
        /// Length of an Ethernet header with a VLAN tag.
        const HEADER_MAX: u64 = 18;
        // A longer frame is dropped, as on a real network.
        if frame.len() <= u64::from(self.mtu) + HEADER_MAX {
            self.wire.send(frame.to_vec());
        }
        Ok(())
    }

    fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError> {
        Ok(self.wire.receive().map(|frame| into.write(&frame) as u64))
    }
}

/// Console that keeps the guest's output, up to a limit. Clones are the same console.
#[derive(Clone, Default)]
pub struct ConsoleBuffer(Arc<Mutex<Vec<u8>>>);

/// Largest number of bytes of output kept. Further bytes are dropped.
const OUTPUT_MAX: usize = 1 << 20;

impl ConsoleBuffer {
    /// Returns the output so far.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().clone()
    }
}

impl Console for ConsoleBuffer {
    fn write(&mut self, data: GuestSlice<'_>) {
        let mut bytes = self.0.lock();
        let left = OUTPUT_MAX - bytes.len();
        data.prefix(left as u64).append_to(&mut bytes);
    }
}

#[cfg(test)]
mod tests {
    use hvt_abi::{Gpa, GuestRange, PAGE_SIZE};

    use super::*;
    use crate::memory::fake::FakeMemory;
    use crate::memory::{GuestSpace, MemoryMap, Permissions, Region};

    /// Guest memory of two pages that are not adjacent in host memory.
    fn pages() -> FakeMemory {
        FakeMemory::new(2 * PAGE_SIZE, &[PAGE_SIZE])
    }

    /// Calls `act` with a guest buffer of `len` bytes that crosses the page boundary.
    fn with_buffer<R>(memory: &FakeMemory, len: u64, act: impl FnOnce(GuestSlice<'_>) -> R) -> R {
        let access = Permissions::READ | Permissions::WRITE;
        let memory_map =
            MemoryMap::new([Region { range: GuestRange::new(Gpa(0), 2 * PAGE_SIZE).unwrap(), access }]).unwrap();
        let slice = GuestSpace::new(memory, &memory_map).slice(Gpa(PAGE_SIZE - len / 2), len, access).unwrap();
        act(slice)
    }

    #[test]
    fn a_disk_holds_what_is_written() {
        let memory = pages();
        let mut disk = RamDisk::new(vec![0; 4096], 512);
        assert_eq!((disk.capacity(), disk.block_size()), (4096, 512));
        let written: Vec<u8> = (0..1024).map(|index| (index % 251) as u8).collect();
        with_buffer(&memory, 1024, |buffer| {
            buffer.write(&written);
            disk.write(2048, buffer)
        })
        .unwrap();
        let bytes = disk.contents();
        assert_eq!(bytes[2048..3072], written);
        assert!(bytes[..2048].iter().chain(&bytes[3072..]).all(|byte| *byte == 0));
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
        let memory = pages();
        let mut disk = RamDisk::new(vec![0; 4096], 512);
        for offset in [3584, 4096, u64::MAX] {
            assert!(with_buffer(&memory, 1024, |buffer| disk.read(offset, buffer)).is_err());
            assert!(with_buffer(&memory, 1024, |buffer| disk.write(offset, buffer)).is_err());
        }
    }

    #[test]
    fn frames_reach_the_other_end_in_order() {
        let memory = pages();
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
        // A buffer that is too short gets the start of the frame.
        let received = with_buffer(&memory, 60, |buffer| device.receive(buffer).unwrap());
        assert_eq!((received, near.is_ready()), (Some(60), false));
        assert_eq!(with_buffer(&memory, 60, |buffer| device.receive(buffer)), Ok(None));
    }

    #[test]
    fn a_wire_drops_what_is_too_long_or_too_much() {
        let memory = pages();
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
    fn output_is_kept_up_to_a_limit() {
        let memory = pages();
        let mut console = ConsoleBuffer::default();
        let kept = console.clone();
        for _ in 0..=OUTPUT_MAX / 1024 {
            with_buffer(&memory, 1024, |buffer| {
                buffer.write(&[b'x'; 1024]);
                console.write(buffer);
            });
        }
        assert_eq!(kept.bytes(), vec![b'x'; OUTPUT_MAX]);
    }
}
