//! Block devices.

#![expect(unsafe_code, reason = "hypercalls, and memory that the tender writes")]

use hvt_abi::hypercall::{BlockIo, Number};
use hvt_abi::manifest::{BlockProperties, Kind};
use zerocopy::FromBytes;

use crate::device::{self, DeviceError, Handle};
use crate::hypercall;

/// A block device.
#[derive(Debug)]
pub struct Block {
    handle: Handle,
    info: BlockInfo,
}

/// Properties of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Capacity of the device in bytes, a multiple of the block size.
    pub capacity: u64,
    /// Block size in bytes, a power of two. Offsets and lengths are multiples of the block size.
    pub block_size: usize,
}

impl Block {
    /// Opens the block device with the name `name` in the manifest.
    ///
    /// # Errors
    ///
    /// Returns [`DeviceError::NoSuchDevice`] if the manifest contains no such block device.
    pub fn open(name: &str) -> Result<Self, DeviceError> {
        let (handle, entry) = device::find(name, Kind::Block)?;
        let Ok((properties, _)) = BlockProperties::read_from_prefix(&entry.properties) else {
            unreachable!("the properties of an entry have room for those of a block device")
        };
        let info = BlockInfo { capacity: properties.capacity, block_size: properties.block_size.into() };
        Ok(Self { handle, info })
    }

    /// Returns the handle of the device.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.handle
    }

    /// Returns the properties of the device.
    #[must_use]
    pub const fn info(&self) -> BlockInfo {
        self.info
    }

    /// Fills `buffer` from the bytes at `offset`. A transfer has one or more whole blocks.
    ///
    /// # Errors
    ///
    /// Returns [`DeviceError::Invalid`] if the range does not consist of whole blocks of the device.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DeviceError> {
        self.transfer::<{ Number::BlockRead as u32 }>(offset, hypercall::writes(buffer), buffer.len())
    }

    /// Writes `data` to the bytes at `offset`. A transfer has one or more whole blocks.
    ///
    /// # Errors
    ///
    /// Returns [`DeviceError::Invalid`] if the range does not consist of whole blocks of the device.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.transfer::<{ Number::BlockWrite as u32 }>(offset, hypercall::reads(data), data.len())
    }

    fn transfer<const NUMBER: u32>(&self, offset: u64, data: hvt_abi::Gpa, len: usize) -> Result<(), DeviceError> {
        // Solo5's tender does not check the alignment.
        if len == 0 || (offset | len as u64) & (self.info.block_size as u64 - 1) != 0 {
            return Err(DeviceError::Invalid);
        }
        let mut argument = BlockIo { handle: self.handle.number(), offset, data, len: len as u64, ret: 0, reserved: 0 };
        // SAFETY: `data` and `len` describe a slice that the caller borrows. `read` borrows it
        // mutably because the tender writes to it.
        unsafe { hypercall::call::<NUMBER, _>(&mut argument) };
        DeviceError::check(argument.ret)
    }
}
