//! The application manifest: the devices a guest asks for.
//!
//! A guest carries its manifest in an ELF [note](crate::note). The tender matches it with what the user attached,
//! fills in the properties of each device, and hands the guest the result through
//! [`BootInfo::mft`](crate::BootInfo::mft). A device's **handle** is the index of its entry.

use core::mem::{align_of, offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `MFT_VERSION`: the only version of the manifest.
pub const VERSION: u32 = 1;
/// `MFT_MAX_ENTRIES`: entries at most, the reserved first one included: a set of handles fits in 64 bits.
pub const MAX_ENTRIES: usize = 64;
/// `MFT_NAME_SIZE`: bytes of a name, its NUL included.
pub const NAME_SIZE: usize = 68;
/// `MFT_NAME_MAX`: characters of a name at most.
pub const NAME_MAX: usize = NAME_SIZE - 1;

/// What kind of thing an [`Entry`] describes, as it stands in [`Entry::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// `MFT_DEV_BLOCK_BASIC`: a block device, [`BlockProperties`].
    Block = 1,
    /// `MFT_DEV_NET_BASIC`: a network device, [`NetProperties`].
    Net = 2,
    /// `MFT_RESERVED_FIRST`: the reserved first entry, so that no device has handle 0.
    ReservedFirst = 1 << 30,
}

impl Kind {
    /// The kind with this number, if there is one.
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

/// First 8 bytes of `struct mft`; [`entries`](Header::entries) times [`Entry`] follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`VERSION`].
    pub version: u32,
    /// How many entries follow, 1 to [`MAX_ENTRIES`].
    pub entries: u32,
}

/// `struct mft_entry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct Entry {
    /// Letters and digits, then NULs.
    pub name: [u8; NAME_SIZE],
    /// A [`Kind`].
    pub kind: u32,
    /// Properties, zero in the file; the tender fills in [`BlockProperties`] or [`NetProperties`].
    pub properties: [u8; 16],
    /// For the tender's own use in Solo5; zero here, in the file and in the guest.
    pub private: [u8; 8],
    /// 1 when the device is attached.
    pub attached: u8,
    /// Padding.
    pub reserved: [u8; 7],
}

impl Entry {
    /// The reserved first entry that every manifest starts with.
    pub const RESERVED_FIRST: Self = Self::new([0; NAME_SIZE], Kind::ReservedFirst);

    /// An entry as it stands in a guest's file: nothing attached.
    #[must_use]
    pub const fn new(name: [u8; NAME_SIZE], kind: Kind) -> Self {
        Self { name, kind: kind as u32, properties: [0; 16], private: [0; 8], attached: 0, reserved: [0; 7] }
    }
}

/// `struct mft_block_basic`, in [`Entry::properties`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlockProperties {
    /// Size of the device in bytes, a multiple of the block size.
    pub capacity: u64,
    /// Smallest unit of a transfer in bytes, a power of two, at least 512.
    pub block_size: u16,
    /// Padding.
    pub reserved: [u8; 6],
}

/// `struct mft_net_basic`, in the first 8 bytes of [`Entry::properties`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetProperties {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Largest payload of a frame in bytes, its 14 bytes of Ethernet header not counted.
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
