//! Devices for tests, which share one [`World`].

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::{Block, Clock, Console, DeviceError, Devices, Interrupted, Net, Poller, Slot};
use crate::memory::GuestSlice;

/// State of a guest's devices: recorded calls and prescribed results.
pub struct World {
    /// Output of the console.
    pub console: Vec<u8>,
    /// Number of console writes.
    pub console_calls: usize,
    /// Wall clock.
    pub now: u64,
    /// Contents of every block device.
    pub disk: Vec<u8>,
    /// Block size of every block device.
    pub block_size: u16,
    /// Frames sent.
    pub sent: Vec<Vec<u8>>,
    /// Frames waiting.
    pub waiting: VecDeque<Vec<u8>>,
    /// Result of `poll`.
    pub ready: Result<u64, Interrupted>,
    /// Timeouts that `poll` was called with.
    pub sleeps: Vec<u64>,
    /// Makes block and network devices fail.
    pub broken: bool,
}

/// Hardware address of every network device.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
/// MTU of every network device.
pub const MTU: u16 = 1500;

/// Fake device of every kind. Only the [`World`] makes a difference.
#[derive(Clone)]
pub struct Fake(pub Rc<RefCell<World>>);

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    /// Creates a world with a disk of eight blocks, no frames sent and no frames waiting.
    pub fn new() -> Self {
        let disk = (0..8 * 512).map(|index| (index / 512 + index) as u8).collect();
        Self(Rc::new(RefCell::new(World {
            console: Vec::new(),
            console_calls: 0,
            now: 1_700_000_000_123_456_789,
            disk,
            block_size: 512,
            sent: Vec::new(),
            waiting: VecDeque::new(),
            ready: Ok(0),
            sleeps: Vec::new(),
            broken: false,
        })))
    }

    /// A block device.
    pub fn block(&self) -> Slot {
        Slot::Block(Box::new(self.clone()))
    }

    /// A network device.
    pub fn net(&self) -> Slot {
        Slot::Net(Box::new(self.clone()))
    }

    /// All devices of a guest. The block device has handle 1, the network device handle 2.
    pub fn devices(&self) -> Devices {
        Devices {
            console: Box::new(self.clone()),
            clock: Box::new(self.clone()),
            poller: Box::new(self.clone()),
            slots: vec![Slot::Reserved, self.block(), self.net()],
        }
    }

    fn check(&self) -> Result<(), DeviceError> {
        if self.0.borrow().broken { Err(DeviceError) } else { Ok(()) }
    }
}

impl Console for Fake {
    fn write(&mut self, data: GuestSlice<'_>) {
        let mut world = self.0.borrow_mut();
        world.console.extend(data.to_vec());
        world.console_calls += 1;
    }
}

impl Clock for Fake {
    fn now(&mut self) -> u64 {
        self.0.borrow().now
    }
}

impl Poller for Fake {
    fn poll(&mut self, timeout: u64) -> Result<u64, Interrupted> {
        let mut world = self.0.borrow_mut();
        world.sleeps.push(timeout);
        world.ready
    }
}

impl Block for Fake {
    fn capacity(&self) -> u64 {
        self.0.borrow().disk.len() as u64
    }

    fn block_size(&self) -> u16 {
        self.0.borrow().block_size
    }

    fn read(&mut self, offset: u64, into: GuestSlice<'_>) -> Result<(), DeviceError> {
        self.check()?;
        let from = &self.0.borrow().disk[offset as usize..][..into.len() as usize];
        assert_eq!(into.write(from), from.len());
        Ok(())
    }

    fn write(&mut self, offset: u64, from: GuestSlice<'_>) -> Result<(), DeviceError> {
        self.check()?;
        self.0.borrow_mut().disk[offset as usize..][..from.len() as usize].copy_from_slice(&from.to_vec());
        Ok(())
    }
}

impl Net for Fake {
    fn mac(&self) -> [u8; 6] {
        MAC
    }

    fn mtu(&self) -> u16 {
        MTU
    }

    fn send(&mut self, frame: GuestSlice<'_>) -> Result<(), DeviceError> {
        self.check()?;
        self.0.borrow_mut().sent.push(frame.to_vec());
        Ok(())
    }

    fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError> {
        self.check()?;
        let frame = self.0.borrow_mut().waiting.pop_front();
        Ok(frame.map(|frame| into.write(&frame) as u64))
    }
}
