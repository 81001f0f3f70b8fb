//! Network devices.

use hvt_abi::hypercall::{FRAME_HEADER_SIZE, NetIo, Number};
use hvt_abi::manifest::{Kind, NetProperties};
use zerocopy::FromBytes;

use crate::device::{self, Error, Handle};
use crate::{hypercall, ring};

/// A network device that carries Ethernet frames.
#[derive(Debug)]
pub struct Net {
    handle: Handle,
    info: NetInfo,
}

/// What is known of a network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetInfo {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Largest payload of a frame in bytes, the Ethernet header not counted.
    pub mtu: usize,
}

impl NetInfo {
    /// Bytes of an Ethernet header: two addresses and a type.
    pub const HEADER: usize = FRAME_HEADER_SIZE as usize;

    /// Largest frame in bytes, header included.
    #[must_use]
    pub const fn frame_size(&self) -> usize {
        self.mtu + Self::HEADER
    }
}

impl Net {
    /// The network device that the manifest calls `name`.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchDevice`] where the manifest has none.
    pub fn open(name: &str) -> Result<Self, Error> {
        let (handle, entry) = device::find(name, Kind::Net)?;
        let Ok((properties, _)) = NetProperties::read_from_prefix(&entry.properties) else {
            unreachable!("the properties of an entry have room for those of a network device")
        };
        Ok(Self { handle, info: NetInfo { mac: properties.mac, mtu: properties.mtu.into() } })
    }

    /// Its handle, as [`HandleSet`](crate::HandleSet) knows it.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.handle
    }

    /// Its address and MTU.
    #[must_use]
    pub const fn info(&self) -> NetInfo {
        self.info
    }

    /// Takes one frame, header included, and returns its length.
    ///
    /// # Errors
    ///
    /// [`Error::Again`] where none is waiting: [`yield_until`](crate::yield_until) says when one is.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut argument = self.argument(hypercall::writes(buffer), buffer.len());
        // SAFETY: The tender writes into the buffer, which is borrowed for that.
        unsafe { hypercall::call(Number::NetRead, &mut argument) };
        Error::check(argument.ret)?;
        Ok(argument.len as usize)
    }

    /// Sends one frame, header included. Where the tender offers a ring, the frame goes there, as onto a wire: nobody
    /// is told if it gets lost.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where it is no frame that the device carries.
    pub fn write(&self, frame: &[u8]) -> Result<(), Error> {
        if ring::send(self.handle, frame) {
            return Ok(());
        }
        let mut argument = self.argument(hypercall::reads(frame), frame.len());
        // SAFETY: The tender reads the frame, which is borrowed until it has.
        unsafe { hypercall::call(Number::NetWrite, &mut argument) };
        Error::check(argument.ret)
    }

    fn argument(&self, data: hvt_abi::Gpa, len: usize) -> NetIo {
        NetIo { handle: self.handle.number(), data, len: len as u64, ret: 0, reserved: 0 }
    }
}
