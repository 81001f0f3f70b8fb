//! Block devices.

use hvt_abi::hypercall::{BlockIo, Number};
use hvt_abi::manifest::{BlockProperties, Kind};
use zerocopy::FromBytes;

use crate::device::{self, Error, Handle};
use crate::hypercall;

/// A block device.
#[derive(Debug)]
pub struct Block {
    handle: Handle,
    info: BlockInfo,
}

/// What is known of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Size of the device in bytes, a multiple of the block size.
    pub capacity: u64,
    /// Bytes of a block, a power of two: offsets and lengths are multiples of it.
    pub block_size: usize,
}

impl Block {
    /// The block device that the manifest calls `name`.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchDevice`] where the manifest has none.
    pub fn open(name: &str) -> Result<Self, Error> {
        let (handle, entry) = device::find(name, Kind::Block)?;
        let Ok((properties, _)) = BlockProperties::read_from_prefix(&entry.properties) else {
            unreachable!("the properties of an entry have room for those of a block device")
        };
        let info = BlockInfo { capacity: properties.capacity, block_size: properties.block_size.into() };
        Ok(Self { handle, info })
    }

    /// Its handle.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.handle
    }

    /// Its size and block size.
    #[must_use]
    pub const fn info(&self) -> BlockInfo {
        self.info
    }

    /// Fills `buffer` from the bytes at `offset`; any number of whole blocks, at least one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where the range is not made of whole blocks of the device.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.transfer(Number::BlockRead, offset, hypercall::writes(buffer), buffer.len())
    }

    /// Writes `data` to the bytes at `offset`; any number of whole blocks, at least one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where the range is not made of whole blocks of the device.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.transfer(Number::BlockWrite, offset, hypercall::reads(data), data.len())
    }

    fn transfer(&self, number: Number, offset: u64, data: hvt_abi::Gpa, len: usize) -> Result<(), Error> {
        // Solo5's tender leaves this to the guest.
        if len == 0 || (offset | len as u64) & (self.info.block_size as u64 - 1) != 0 {
            return Err(Error::Invalid);
        }
        let mut argument = BlockIo { handle: self.handle.number(), offset, data, len: len as u64, ret: 0, reserved: 0 };
        // SAFETY: `data` and `len` are those of a slice that both callers borrow, for writing where the tender writes.
        unsafe { hypercall::call(number, &mut argument) };
        Error::check(argument.ret)
    }
}
