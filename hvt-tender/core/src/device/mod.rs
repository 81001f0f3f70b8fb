//! Devices behind a guest's handles.
//!
//! [`hypercall`](crate::hypercall) serves a guest through these traits. A device sees guest buffers
//! only as [`GuestSlice`]s, already checked, and reports success or failure;
//! [`hypercall`](crate::hypercall) alone turns the result into the guest's status.

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

/// Output for the guest's console.
pub trait Console {
    /// Writes all of `data`. The console handles its own failures, because the ABI has no way to
    /// report them to the guest.
    fn write(&mut self, data: GuestSlice<'_>);

    /// Returns another handle of the same console, for a further run of a unikernel; `None` if the console serves one run
    /// only.
    fn clone_handle(&self) -> Option<Box<dyn Console + Send>> {
        None
    }

    /// Host descriptors that the console uses. In a sandbox all others are denied.
    fn descriptors(&self) -> Vec<Descriptor> {
        Vec::new()
    }
}

/// Wall clock of a guest.
pub trait Clock {
    /// Returns the nanoseconds since the Unix epoch, UTC.
    fn now(&mut self) -> u64;

    /// Returns another handle of the same clock, for a further run of a unikernel; `None` if the clock serves one run only.
    fn clone_handle(&self) -> Option<Box<dyn Clock + Send>> {
        None
    }
}

/// Block device. Callers pass only offsets and lengths that are whole blocks inside the capacity.
pub trait Block {
    /// Size in bytes, a non-zero multiple of the block size.
    fn capacity(&self) -> u64;
    /// Block size in bytes, a power of two, at least 512.
    fn block_size(&self) -> u16;
    /// Returns true if `len` bytes from `offset` on are one or more whole blocks inside the device.
    fn holds(&self, offset: u64, len: u64) -> bool {
        // The block size is a power of two.
        let mask = u64::from(self.block_size()).wrapping_sub(1);
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.capacity());
        len != 0 && (offset | len) & mask == 0 && inside
    }
    /// Fills `into` from byte `offset` on.
    ///
    /// # Errors
    /// Returns [`DeviceError`] if the device failed; `into` may be partly filled.
    fn read(&mut self, offset: u64, into: GuestSlice<'_>) -> Result<(), DeviceError>;
    /// Writes `from` from byte `offset` on.
    ///
    /// # Errors
    /// Returns [`DeviceError`] if the device failed or is read-only; `from` may be partly written.
    fn write(&mut self, offset: u64, from: GuestSlice<'_>) -> Result<(), DeviceError>;
    /// Makes written data durable: after the return, a crash of the host does not undo it. Called
    /// once the guest has ended, for whatever reason.
    ///
    /// # Errors
    /// Returns [`DeviceError`] if the device failed; some data written by the guest may be lost.
    fn sync(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Host descriptors that the device uses. In a sandbox all others are denied.
    fn descriptors(&self) -> Vec<Descriptor> {
        Vec::new()
    }

    /// Makes the device wait through `sleep` from now on, so that an interrupt of the guest ends
    /// its waits. Ignored by devices that never wait, or that wait only for a disk of the host.
    fn wait_by(&mut self, _sleep: Arc<dyn Sleep>) {}

    /// Returns another handle of the same device, for a further run of a unikernel; `None` if the device serves one run
    /// only.
    fn clone_handle(&self) -> Option<Box<dyn Block + Send>> {
        None
    }
}

/// Sleep that ends early if the guest is interrupted.
pub trait Sleep: Send + Sync + core::fmt::Debug {
    /// Sleeps for `nanoseconds` at most.
    fn sleep(&self, nanoseconds: u64);
}

/// Network device.
pub trait Net {
    /// Returns the hardware address.
    fn mac(&self) -> [u8; 6];
    /// Returns the MTU: largest payload of a frame in bytes, without the 14 bytes of Ethernet
    /// header.
    fn mtu(&self) -> u16;
    /// Sends one frame, Ethernet header first.
    ///
    /// # Errors
    /// Returns [`DeviceError`] if the device failed. A frame dropped by the network is not a
    /// failure.
    fn send(&mut self, frame: GuestSlice<'_>) -> Result<(), DeviceError>;
    /// Takes one frame, or returns `None` if none is waiting. A frame longer than `into` is
    /// truncated.
    ///
    /// # Errors
    /// Returns [`DeviceError`] if the device failed.
    fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError>;
    /// Returns a second handle to the same device for use on another thread, or `None` if two
    /// threads cannot use the device at once.
    fn second_end(&self) -> Option<Box<dyn Net + Send>> {
        None
    }

    /// Host descriptors that the device uses. In a sandbox all others are denied.
    fn descriptors(&self) -> Vec<Descriptor> {
        Vec::new()
    }

    /// Threads that the device runs beside the guest's thread. In a sandbox each is confined before
    /// the guest's first instruction.
    fn helper_threads(&self) -> Vec<&dyn HelperThread> {
        Vec::new()
    }
}

/// Thread that a device runs beside the guest's thread.
pub trait HelperThread {
    /// Host descriptors that the thread uses.
    fn descriptors(&self) -> Vec<Descriptor>;

    /// Returns true if the thread opens and uses internet sockets (`AF_INET`, `AF_INET6`).
    fn uses_internet(&self) -> bool {
        false
    }

    /// Makes the thread execute `job` before it serves the guest again. A thread that has ended
    /// drops `job`.
    fn execute(&self, job: Job);
}

/// Function for a [`HelperThread`] to execute.
pub type Job = Box<dyn FnOnce() + Send>;

/// Wakes the thread that serves a guest's ring.
pub trait Doorbell {
    /// Wakes the thread.
    fn ring(&self);
}

/// Sleep of a guest.
pub trait Poller {
    /// Waits until a network device has a frame, or until `timeout` nanoseconds have passed. Bit
    /// *n* of the result is set if the device with handle *n* has a frame, including one that
    /// arrived before the call.
    ///
    /// # Errors
    /// Returns [`Interrupted`] if the run is interrupted meanwhile.
    fn poll(&mut self, timeout: u64) -> Result<u64, Interrupted>;

    /// Waits until the guest may execute its first instruction, usually not at all.
    ///
    /// # Errors
    /// Returns [`Interrupted`] if the run is interrupted meanwhile.
    fn begin(&mut self) -> Result<(), Interrupted> {
        Ok(())
    }

    /// Returns true if the poller interrupted the guest because no event can ever wake it.
    fn asleep(&self) -> bool {
        false
    }

    /// Host descriptors that the poller reads or writes. In a sandbox all others are denied.
    /// Waiting for a descriptor is always allowed.
    fn descriptors(&self) -> Vec<Descriptor> {
        Vec::new()
    }
}

/// Failure of a device. The details are in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device failed")]
pub struct DeviceError;

/// Interrupt of the run from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Device at an index of the manifest.
pub enum Slot {
    /// The reserved first entry.
    Reserved,
    /// A block device.
    Block(Box<dyn Block>),
    /// A network device.
    Net(Box<dyn Net>),
}

/// Everything that a guest's hypercalls can reach.
pub struct Devices {
    /// Console.
    pub console: Box<dyn Console>,
    /// Wall clock.
    pub clock: Box<dyn Clock>,
    /// Sleep of the guest.
    pub poller: Box<dyn Poller>,
    /// Devices by handle.
    pub slots: Vec<Slot>,
}

impl Devices {
    /// Makes data written to all block devices durable.
    ///
    /// # Errors
    /// Returns [`DeviceError`] if a device failed.
    pub fn sync(&mut self) -> Result<(), DeviceError> {
        let mut synced = Ok(());
        for slot in &mut self.slots {
            if let Slot::Block(device) = slot {
                synced = device.sync().and(synced);
            }
        }
        synced
    }

    /// Host descriptors that the devices use.
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
