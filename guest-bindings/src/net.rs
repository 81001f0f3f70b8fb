//! Network devices.

#![expect(unsafe_code, reason = "hypercalls, and memory that the tender writes")]

use hvt_abi::hypercall::{FRAME_HEADER_SIZE, NetIo, Number};
use hvt_abi::manifest::{Kind, NetProperties};
use zerocopy::FromBytes;

use crate::device::{self, DeviceError, Handle};
use crate::{hypercall, ring};

/// A network device that carries Ethernet frames.
#[derive(Debug)]
pub struct Net {
    handle: Handle,
    info: NetInfo,
}

/// Properties of a network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetInfo {
    /// MAC address of the device.
    pub mac: [u8; 6],
    /// MTU: largest payload of a frame in bytes, excluding the Ethernet header.
    pub mtu: usize,
}

impl NetInfo {
    /// Length of an Ethernet header in bytes: two addresses and a type.
    pub const HEADER: usize = FRAME_HEADER_SIZE as usize;

    /// Returns the maximum length of a frame in bytes, including the header.
    #[must_use]
    pub const fn frame_size(&self) -> usize {
        self.mtu + Self::HEADER
    }
}

impl Net {
    /// Opens the network device with the name `name` in the manifest.
    ///
    /// # Errors
    ///
    /// Returns [`DeviceError::NoSuchDevice`] if the manifest contains no such network device.
    pub fn open(name: &str) -> Result<Self, DeviceError> {
        let (handle, entry) = device::find(name, Kind::Net)?;
        let Ok((properties, _)) = NetProperties::read_from_prefix(&entry.properties) else {
            unreachable!("the properties of an entry have room for those of a network device")
        };
        Ok(Self { handle, info: NetInfo { mac: properties.mac, mtu: properties.mtu.into() } })
    }

    /// Returns the handle of the device, as used in [`HandleSet`](crate::HandleSet).
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.handle
    }

    /// Returns the properties of the device.
    #[must_use]
    pub const fn info(&self) -> NetInfo {
        self.info
    }

    /// Receives one frame, including its header, and returns its length in bytes.
    ///
    /// # Errors
    ///
    /// Returns [`DeviceError::Again`] if no frame is waiting. [`yield_until`](crate::yield_until) sleeps
    /// until a frame arrives.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, DeviceError> {
        let mut argument = self.argument(hypercall::writes(buffer), buffer.len());
        // SAFETY: The tender writes to the buffer, which is mutably borrowed for the duration of
        // the call.
        unsafe { hypercall::call::<{ Number::NetRead as u32 }, _>(&mut argument) };
        DeviceError::check(argument.ret)?;
        Ok(argument.len as usize)
    }

    /// Sends one frame, including its header. If the tender offers a ring, the frame is sent
    /// through the ring. As on a physical network, a lost frame is not reported.
    ///
    /// # Errors
    ///
    /// Returns [`DeviceError::Invalid`] if the device cannot carry the frame.
    pub fn write(&self, frame: &[u8]) -> Result<(), DeviceError> {
        if ring::send(self.handle, frame) {
            return Ok(());
        }
        let mut argument = self.argument(hypercall::reads(frame), frame.len());
        // SAFETY: The tender reads the frame, which is borrowed for the duration of the call.
        unsafe { hypercall::call::<{ Number::NetWrite as u32 }, _>(&mut argument) };
        DeviceError::check(argument.ret)
    }

    fn argument(&self, data: hvt_abi::Gpa, len: usize) -> NetIo {
        NetIo { handle: self.handle.number(), data, len: len as u64, ret: 0, reserved: 0 }
    }
}
