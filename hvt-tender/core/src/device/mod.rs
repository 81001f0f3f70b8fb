//! Devices: what stands behind a guest's handles.
//!
//! The traits are what [`hypercall`](crate::hypercall) serves a guest with. They see guest buffers only as
//! [`GuestSlice`]s, already checked, and say how it went; what that means for the guest is decided in one place there.

pub mod attach;
#[cfg(any(test, feature = "fixtures"))]
pub mod fake;
pub mod in_memory;
pub mod store;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::memory::GuestSlice;

pub use crate::descriptor::{Descriptor, Uses};
pub use attach::{AttachError, Attached, attach};

/// Where the guest's console output goes.
pub trait Console {
    /// Writes all of it. Failures are the console's own affair: the guest cannot be told.
    fn write(&mut self, data: GuestSlice<'_>);

    /// The descriptors of the host that it uses: in a sandbox it can use no others.
    fn descriptors(&self) -> Vec<Descriptor> {
        Vec::new()
    }
}

/// Wall clock.
pub trait Clock {
    /// Nanoseconds since the Unix epoch, UTC.
    fn now(&mut self) -> u64;
}

/// A block device. Offsets and lengths that reach it are whole blocks inside its capacity.
pub trait Block {
    /// Size in bytes, a non-zero multiple of the block size.
    fn capacity(&self) -> u64;
    /// Block size in bytes, a power of two, at least 512.
    fn block_size(&self) -> u16;
    /// Whether `len` bytes from `offset` on are blocks of the device, at least one, and all of them inside it.
    fn holds(&self, offset: u64, len: u64) -> bool {
        // The block size is a power of two.
        let mask = u64::from(self.block_size()).wrapping_sub(1);
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.capacity());
        len != 0 && (offset | len) & mask == 0 && inside
    }
    /// Fills `into` from byte `offset` on.
    ///
    /// # Errors
    /// When the device failed; `into` may be filled in part.
    fn read(&mut self, offset: u64, into: GuestSlice<'_>) -> Result<(), DeviceError>;
    /// Writes `from` from byte `offset` on.
    ///
    /// # Errors
    /// When the device failed, or is read-only; a part may have been written.
    fn write(&mut self, offset: u64, from: GuestSlice<'_>) -> Result<(), DeviceError>;
    /// Makes what was written last: once this returns, a crash of the host does not undo it. Called when the guest has
    /// ended, however it did.
    ///
    /// # Errors
    /// When the device failed; some of what the guest has written may be lost.
    fn sync(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// The descriptors of the host that it uses: in a sandbox it can use no others.
    fn descriptors(&self) -> Vec<Descriptor> {
        Vec::new()
    }

    /// Makes its waits end when the guest is interrupted, from now on: it waits by `sleep`. A device that never waits, or for
    /// a disk of the host only, has no use for it.
    fn wait_by(&mut self, _sleep: Arc<dyn Sleep>) {}
}

/// Sleep that ends early when the guest is interrupted.
pub trait Sleep: Send + Sync + core::fmt::Debug {
    /// Sleeps for `nanoseconds` at most.
    fn sleep(&self, nanoseconds: u64);
}

/// A network device.
pub trait Net {
    /// Hardware address.
    fn mac(&self) -> [u8; 6];
    /// Largest payload of a frame in bytes, its 14 bytes of Ethernet header not counted.
    fn mtu(&self) -> u16;
    /// Sends one frame, Ethernet header first.
    ///
    /// # Errors
    /// When the device failed. A frame that the network drops is no failure.
    fn send(&mut self, frame: GuestSlice<'_>) -> Result<(), DeviceError>;
    /// Takes one frame; `None` when none is waiting. A frame longer than `into` loses its end.
    ///
    /// # Errors
    /// When the device failed.
    fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError>;
    /// Another end of the same device, for a thread of its own; `None` where two threads cannot use it at once.
    fn second_end(&self) -> Option<Box<dyn Net + Send>> {
        None
    }

    /// The descriptors of the host that it uses: in a sandbox it can use no others.
    fn descriptors(&self) -> Vec<Descriptor> {
        Vec::new()
    }

    /// The threads that the device runs beside the guest's. In a sandbox each is confined before the guest's first
    /// instruction.
    fn helper_threads(&self) -> Vec<&dyn HelperThread> {
        Vec::new()
    }
}

/// A thread that a device runs beside the guest's.
pub trait HelperThread {
    /// The descriptors of the host that the thread uses.
    fn descriptors(&self) -> Vec<Descriptor>;

    /// Whether the thread opens and uses sockets of the internet protocols.
    fn uses_internet(&self) -> bool {
        false
    }

    /// Makes the thread execute `job` soon, before it serves the guest again. A thread that has ended drops `job`.
    fn execute(&self, job: Job);
}

/// A function for a [`HelperThread`] to execute.
pub type Job = Box<dyn FnOnce() + Send>;

/// Wakes the thread that serves a guest's ring.
pub trait Doorbell {
    /// Wakes the thread.
    fn ring(&self);
}

/// How a guest sleeps.
pub trait Poller {
    /// Waits until a network device has a frame waiting, or `timeout` nanoseconds are over. Bit *n* of the answer is
    /// set when the device with handle *n* has one, however long it has been waiting.
    ///
    /// # Errors
    /// [`Interrupted`] when somebody asked the run to end meanwhile.
    fn poll(&mut self, timeout: u64) -> Result<u64, Interrupted>;

    /// Waits until the guest may execute its first instruction, which it usually may at once.
    ///
    /// # Errors
    /// [`Interrupted`] when somebody asked the run to end meanwhile.
    fn begin(&mut self) -> Result<(), Interrupted> {
        Ok(())
    }

    /// Whether it has interrupted the guest because nothing will ever wake it.
    fn asleep(&self) -> bool {
        false
    }

    /// The descriptors of the host that it reads or writes: in a sandbox it can use no others. To wait for any is
    /// allowed.
    fn descriptors(&self) -> Vec<Descriptor> {
        Vec::new()
    }
}

/// The device failed; what exactly went to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device failed")]
pub struct DeviceError;

/// Somebody asked the run to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// What stands at an index of the manifest.
pub enum Slot {
    /// The reserved first entry.
    Reserved,
    /// A block device.
    Block(Box<dyn Block>),
    /// A network device.
    Net(Box<dyn Net>),
}

/// All that a guest's hypercalls reach.
pub struct Devices {
    /// Console.
    pub console: Box<dyn Console>,
    /// Wall clock.
    pub clock: Box<dyn Clock>,
    /// How the guest sleeps.
    pub poller: Box<dyn Poller>,
    /// By handle.
    pub slots: Vec<Slot>,
}

impl Devices {
    /// Makes what was written to block devices last, on every one of them.
    ///
    /// # Errors
    /// When one of them failed.
    pub fn sync(&mut self) -> Result<(), DeviceError> {
        let mut synced = Ok(());
        for slot in &mut self.slots {
            if let Slot::Block(device) = slot {
                synced = device.sync().and(synced);
            }
        }
        synced
    }

    /// The descriptors of the host that they use.
    #[must_use]
    pub fn descriptors(&self) -> Vec<Descriptor> {
        let mut all = [self.console.descriptors(), self.poller.descriptors()].concat();
        for slot in &self.slots {
            match slot {
                Slot::Reserved => {}
                Slot::Block(device) => all.append(&mut device.descriptors()),
                Slot::Net(device) => all.append(&mut device.descriptors()),
            }
        }
        all
    }
}
