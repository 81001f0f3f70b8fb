//! Hypercalls: numbers, argument structures and results.
//!
//! To make a hypercall, the guest passes the tender the guest address of an argument structure. The
//! mechanism depends on the architecture: see [`x86_64`](crate::x86_64) and
//! [`aarch64`](crate::aarch64). The tender copies the structure once, checks the copy, acts on the
//! copy, and writes the fields marked *out* back to guest memory.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Gpa;

/// Hypercall number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Number {
    /// Reads the wall clock. Argument: [`Walltime`].
    Walltime = 1,
    /// Writes to the console. Argument: [`Puts`].
    Puts = 2,
    /// Sleeps until a network device has a frame or the timeout expires. Argument: [`Poll`].
    Poll = 3,
    /// Writes whole blocks. Argument: [`BlockIo`].
    BlockWrite = 4,
    /// Reads whole blocks. Argument: [`BlockIo`].
    BlockRead = 5,
    /// Sends a frame. Argument: [`NetIo`].
    NetWrite = 6,
    /// Receives a frame. Argument: [`NetIo`].
    NetRead = 7,
    /// Terminates the guest. Argument: [`Halt`].
    Halt = 8,
}

impl Number {
    /// All hypercalls, in ascending order of their numbers.
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

    /// Returns the hypercall with the given number, or `None` if the number is unassigned.
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

    /// Returns the name that Solo5 uses for the hypercall, in lower case.
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

/// `solo5_result_t`: the result of a device operation, returned in the `ret` field of its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Status {
    /// Success.
    Ok = 0,
    /// No frame is waiting; the guest may try again later.
    Again = 1,
    /// The handle, offset, length or alignment is invalid.
    Invalid = 2,
    /// The device failed.
    Unspecified = 3,
}

impl Status {
    /// Returns the status with the given number. Unassigned numbers map to [`Status::Unspecified`].
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
    /// Address of the bytes to write to the console.
    pub data: Gpa,
    /// Number of bytes.
    pub len: u64,
}

/// Argument of [`Number::Poll`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Poll {
    /// Timeout in nanoseconds.
    pub timeout_nsecs: u64,
    /// Out: bit *n* is set if the network device with handle *n* has a frame waiting.
    pub ready_set: u64,
    /// Out: number of bits set in `ready_set`.
    pub ret: i32,
    /// Padding.
    pub reserved: u32,
}

/// Argument of [`Number::BlockWrite`] and [`Number::BlockRead`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlockIo {
    /// Handle: index of the device's entry in the manifest.
    pub handle: u64,
    /// Offset of the transfer on the device, in bytes.
    pub offset: u64,
    /// Address of the guest buffer.
    pub data: Gpa,
    /// Length in bytes. Out for a read: number of bytes read.
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
    /// Handle: index of the device's entry in the manifest.
    pub handle: u64,
    /// Address of the guest buffer.
    pub data: Gpa,
    /// Length in bytes. Out for a read: length of the frame.
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
    /// Address of [`HALT_COOKIE_SIZE`] bytes that describe the guest's registers, or 0.
    pub cookie: Gpa,
    /// Exit status of the guest. The tender exits with the same status.
    pub exit_status: i32,
    /// Padding.
    pub reserved: u32,
}

/// Length in bytes of an Ethernet header: two addresses and a type (IEEE 802.3, 3.1.1). It is the
/// minimum length of a frame.
pub const FRAME_HEADER_SIZE: u64 = 14;

/// Number of readable bytes at a non-zero [`Halt::cookie`].
pub const HALT_COOKIE_SIZE: u64 = 512;

/// Exit statuses that guests use by convention.
pub mod exit_status {
    /// The application succeeded.
    pub const SUCCESS: i32 = 0;
    /// The application failed.
    pub const FAILURE: i32 = 1;
    /// The guest aborted because of a trap, a panic or a failed assertion.
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
