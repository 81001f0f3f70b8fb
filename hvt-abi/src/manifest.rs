//! The application manifest: the list of devices that a guest requires.
//!
//! A guest carries its manifest in an ELF [note](crate::note). The tender matches the manifest with
//! the devices that the user attached, fills in the properties of each device, and passes the
//! result to the guest in [`BootInfo::mft`](crate::BootInfo::mft). The **handle** of a device is
//! the index of its entry.

use core::mem::{align_of, offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `MFT_VERSION`: version of the manifest format. No other version exists.
pub const VERSION: u32 = 1;
/// `MFT_MAX_ENTRIES`: maximum number of entries, including the reserved first entry. A set of
/// handles thus fits in 64 bits.
pub const MAX_ENTRIES: usize = 64;
/// `MFT_NAME_SIZE`: size of a device name in bytes, including its NUL.
pub const NAME_SIZE: usize = 68;
/// `MFT_NAME_MAX`: maximum length of a device name in characters.
pub const NAME_MAX: usize = NAME_SIZE - 1;

/// Type of a manifest [`Entry`], stored in [`Entry::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// `MFT_DEV_BLOCK_BASIC`: a block device with [`BlockProperties`].
    Block = 1,
    /// `MFT_DEV_NET_BASIC`: a network device with [`NetProperties`].
    Net = 2,
    /// `MFT_RESERVED_FIRST`: the reserved first entry. It keeps handle 0 from naming a device.
    ReservedFirst = 1 << 30,
}

impl Kind {
    /// Returns the kind with the given number, or `None` if the number is unassigned.
    #[must_use]
    pub const fn from_u32(kind: u32) -> Option<Self> {
        match kind {
            1 => Some(Self::Block),
            2 => Some(Self::Net),
            0x4000_0000 => Some(Self::ReservedFirst),
            _ => None,
        }
    }
}

/// First 8 bytes of `struct mft`. An array of [`entries`](Header::entries) [`Entry`] structures
/// follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Version of the manifest format: [`VERSION`].
    pub version: u32,
    /// Number of entries that follow, 1 to [`MAX_ENTRIES`].
    pub entries: u32,
}

/// `struct mft_entry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct Entry {
    /// Name of the device: letters and digits, padded with NULs.
    pub name: [u8; NAME_SIZE],
    /// Type of the entry: a [`Kind`].
    pub kind: u32,
    /// Properties of the device: zero in the file. The tender fills in [`BlockProperties`] or
    /// [`NetProperties`].
    pub properties: [u8; 16],
    /// Private field of Solo5's tender. Always zero here, in the file and in the guest.
    pub private: [u8; 8],
    /// 1 if the device is attached, otherwise 0.
    pub attached: u8,
    /// Padding.
    pub reserved: [u8; 7],
}

impl Entry {
    /// The reserved first entry of every manifest.
    pub const RESERVED_FIRST: Self = Self::new([0; NAME_SIZE], Kind::ReservedFirst);

    /// Returns an entry as stored in a guest's file, without an attached device.
    #[must_use]
    pub const fn new(name: [u8; NAME_SIZE], kind: Kind) -> Self {
        Self { name, kind: kind as u32, properties: [0; 16], private: [0; 8], attached: 0, reserved: [0; 7] }
    }
}

/// `struct mft_block_basic`: properties of a block device, stored in [`Entry::properties`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlockProperties {
    /// Capacity of the device in bytes, a multiple of the block size.
    pub capacity: u64,
    /// Block size in bytes: the smallest unit of a transfer. It is a power of two and at least 512.
    pub block_size: u16,
    /// Padding.
    pub reserved: [u8; 6],
}

/// `struct mft_net_basic`: properties of a network device, stored in the first 8 bytes of
/// [`Entry::properties`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetProperties {
    /// MAC address.
    pub mac: [u8; 6],
    /// MTU: largest payload of a frame in bytes, excluding the 14-byte Ethernet header.
    pub mtu: u16,
}

const _: () = {
    assert!(size_of::<Header>() == 8);
    assert!(size_of::<Entry>() == 104 && align_of::<Entry>() == 8);
    assert!(offset_of!(Entry, kind) == 68);
    assert!(offset_of!(Entry, properties) == 72);
    assert!(offset_of!(Entry, private) == 88);
    assert!(offset_of!(Entry, attached) == 96);
    assert!(size_of::<BlockProperties>() == 16 && offset_of!(BlockProperties, block_size) == 8);
    assert!(size_of::<NetProperties>() == 8 && offset_of!(NetProperties, mtu) == 6);
};
