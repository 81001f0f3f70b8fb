//! The ELF notes of a Solo5 guest.
//!
//! Each note has its own `PT_NOTE` segment. A guest carries three notes: the OpenBSD identification
//! note, which makes OpenBSD read the guest's interpreter; [`Abi1`]; and the
//! [manifest](crate::manifest).

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Owner of the Solo5 notes, including its NUL: 6 bytes, padded to 8 in the file.
pub const OWNER: &[u8; 6] = b"Solo5\0";
/// [`OWNER`] with the padding that it has in the file.
pub const OWNER_PADDED: [u8; 8] = *b"Solo5\0\0\0";
/// Type of the note that contains [`Abi1`]: "ABI1".
pub const TYPE_ABI1: u32 = 0x3149_4241;
/// Type of the note that contains the manifest: "MFT1".
pub const TYPE_MFT1: u32 = 0x3154_464d;

/// Owner of the OpenBSD identification note, including its NUL.
pub const OPENBSD_OWNER: [u8; 8] = *b"OpenBSD\0";
/// Type of the OpenBSD identification note.
pub const OPENBSD_TYPE: u32 = 1;

/// Contents of `PT_INTERP`. The path does not exist on any host, so a host kernel refuses to
/// execute a guest as a process.
pub const INTERPRETER: &[u8; 20] = b"/nonexistent/solo5/\0";

/// `Elf64_Nhdr` and the owner, padded to 8 bytes. The note's descriptor follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NoteHeader {
    /// Length of the owner in bytes, without padding.
    pub namesz: u32,
    /// Length of the descriptor in bytes.
    pub descsz: u32,
    /// Type of the note. Each owner assigns its types.
    pub kind: u32,
    /// Owner of the note, padded with NULs.
    pub owner: [u8; 8],
}

/// `struct abi1_info`: the tender that the guest was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Abi1 {
    /// Tender type: a [`Target`].
    pub target: u32,
    /// Version of the target's ABI. For HVT it is [`ABI_VERSION`](crate::ABI_VERSION).
    pub version: u32,
    /// Reserved; zero.
    pub reserved: [u32; 2],
}

/// Tender types that Solo5 defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Target {
    /// Hardware virtualized tender. This project implements it.
    Hvt = 1,
    /// Sandboxed process tender.
    Spt = 2,
    /// A virtio machine.
    Virtio = 3,
    /// The Muen separation kernel.
    Muen = 4,
    /// The Genode framework.
    Genode = 5,
    /// Xen PVH.
    Xen = 6,
}

impl Target {
    /// Returns the target with the given number, or `None` if the number is unassigned.
    #[must_use]
    pub const fn from_u32(target: u32) -> Option<Self> {
        match target {
            1 => Some(Self::Hvt),
            2 => Some(Self::Spt),
            3 => Some(Self::Virtio),
            4 => Some(Self::Muen),
            5 => Some(Self::Genode),
            6 => Some(Self::Xen),
            _ => None,
        }
    }

    /// Returns the name that Solo5 uses for the target.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hvt => "hvt",
            Self::Spt => "spt",
            Self::Virtio => "virtio",
            Self::Muen => "muen",
            Self::Genode => "genode",
            Self::Xen => "xen",
        }
    }
}

/// Offset in bytes of the manifest from the start of its note: header and owner, padded to 8 bytes.
///
/// The note's `descsz` includes the padding.
pub const MFT1_OFFSET: usize = 24;

const _: () = {
    assert!(size_of::<NoteHeader>() == 20 && offset_of!(NoteHeader, owner) == 12);
    assert!(size_of::<Abi1>() == 16);
    assert!(MFT1_OFFSET == size_of::<NoteHeader>().next_multiple_of(8));
};
