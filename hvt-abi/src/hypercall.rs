//! Hypercalls: numbers, argument structures, results.
//!
//! A guest makes a hypercall by handing the tender the guest address of an argument structure, in a way that depends
//! on the architecture ([`x86_64`](crate::x86_64), [`aarch64`](crate::aarch64)). The tender copies the structure in
//! once, checks it, acts on the copy, and writes the fields marked *out* back.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Gpa;

/// The number of a hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Number {
    /// Wall clock; argument [`Walltime`].
    Walltime = 1,
    /// Console output; argument [`Puts`].
    Puts = 2,
    /// Sleep until a network device has a frame or time is up; argument [`Poll`].
    Poll = 3,
    /// Write whole blocks; argument [`BlockIo`].
    BlockWrite = 4,
    /// Read whole blocks; argument [`BlockIo`].
    BlockRead = 5,
    /// Send a frame; argument [`NetIo`].
    NetWrite = 6,
    /// Receive a frame; argument [`NetIo`].
    NetRead = 7,
    /// End the guest; argument [`Halt`].
    Halt = 8,
}

impl Number {
    /// All hypercalls in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Walltime,
        Self::Puts,
        Self::Poll,
        Self::BlockWrite,
        Self::BlockRead,
        Self::NetWrite,
        Self::NetRead,
        Self::Halt,
    ];

    /// The hypercall with this number, if there is one.
    #[must_use]
    pub const fn from_u32(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Walltime),
            2 => Some(Self::Puts),
            3 => Some(Self::Poll),
            4 => Some(Self::BlockWrite),
            5 => Some(Self::BlockRead),
            6 => Some(Self::NetWrite),
            7 => Some(Self::NetRead),
            8 => Some(Self::Halt),
            _ => None,
        }
    }

    /// The name that Solo5 gives it, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Walltime => "walltime",
            Self::Puts => "puts",
            Self::Poll => "poll",
            Self::BlockWrite => "block_write",
            Self::BlockRead => "block_read",
            Self::NetWrite => "net_write",
            Self::NetRead => "net_read",
            Self::Halt => "halt",
        }
    }
}

/// `solo5_result_t`: how a device operation ended, in the `ret` field of its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// No frame is waiting; try again later.
    Again = 1,
    /// Bad handle, offset, length or alignment.
    Invalid = 2,
    /// The device failed.
    Unspecified = 3,
}

impl Status {
    /// The status with this number; anything unknown counts as [`Status::Unspecified`].
    #[must_use]
    pub const fn from_i32(ret: i32) -> Self {
        match ret {
            0 => Self::Ok,
            1 => Self::Again,
            2 => Self::Invalid,
            _ => Self::Unspecified,
        }
    }
}

/// Argument of [`Number::Walltime`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Walltime {
    /// Out: nanoseconds since the Unix epoch, UTC.
    pub nsecs: u64,
}

/// Argument of [`Number::Puts`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Puts {
    /// Bytes for the console.
    pub data: Gpa,
    /// How many.
    pub len: u64,
}

/// Argument of [`Number::Poll`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Poll {
    /// Longest sleep in nanoseconds.
    pub timeout_nsecs: u64,
    /// Out: bit *n* is set when the network device with handle *n* has a frame waiting.
    pub ready_set: u64,
    /// Out: how many bits are set.
    pub ret: i32,
    /// Padding.
    pub reserved: u32,
}

/// Argument of [`Number::BlockWrite`] and [`Number::BlockRead`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlockIo {
    /// Index of the device in the manifest.
    pub handle: u64,
    /// First byte on the device.
    pub offset: u64,
    /// Guest buffer.
    pub data: Gpa,
    /// Length in bytes; a read sets it to the number of bytes read.
    pub len: u64,
    /// Out: a [`Status`].
    pub ret: i32,
    /// Padding.
    pub reserved: u32,
}

/// Argument of [`Number::NetWrite`] and [`Number::NetRead`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetIo {
    /// Index of the device in the manifest.
    pub handle: u64,
    /// Guest buffer.
    pub data: Gpa,
    /// Length in bytes; a read sets it to the length of the frame.
    pub len: u64,
    /// Out: a [`Status`].
    pub ret: i32,
    /// Padding.
    pub reserved: u32,
}

/// Argument of [`Number::Halt`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Halt {
    /// 0, or the address of [`HALT_COOKIE_SIZE`] bytes that describe the guest's registers.
    pub cookie: Gpa,
    /// Becomes the exit status of the tender.
    pub exit_status: i32,
    /// Padding.
    pub reserved: u32,
}

/// Bytes of an Ethernet header, two addresses and a type (IEEE 802.3, 3.1.1): no frame is shorter.
pub const FRAME_HEADER_SIZE: u64 = 14;

/// Readable bytes behind a non-zero [`Halt::cookie`].
pub const HALT_COOKIE_SIZE: u64 = 512;

/// Exit statuses that guests use.
pub mod exit_status {
    /// The application is content.
    pub const SUCCESS: i32 = 0;
    /// The application failed.
    pub const FAILURE: i32 = 1;
    /// The guest gave up: a trap, a panic, a failed assertion.
    pub const ABORT: i32 = 255;
}

const _: () = {
    assert!(size_of::<Walltime>() == 8);
    assert!(size_of::<Puts>() == 16 && offset_of!(Puts, len) == 8);
    assert!(size_of::<Poll>() == 24 && offset_of!(Poll, ready_set) == 8 && offset_of!(Poll, ret) == 16);
    assert!(size_of::<BlockIo>() == 40 && offset_of!(BlockIo, data) == 16 && offset_of!(BlockIo, ret) == 32);
    assert!(offset_of!(BlockIo, len) == 24);
    assert!(size_of::<NetIo>() == 32 && offset_of!(NetIo, len) == 16 && offset_of!(NetIo, ret) == 24);
    assert!(size_of::<Halt>() == 16 && offset_of!(Halt, exit_status) == 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for number in Number::ALL {
            assert_eq!(Number::from_u32(number as u32), Some(number));
        }
        assert_eq!(Number::from_u32(0), None);
        assert_eq!(Number::from_u32(9), None);
    }
}
