//! The ELF notes of a Solo5 guest.
//!
//! Each note lies in a `PT_NOTE` segment of its own. A guest carries three: one that makes OpenBSD look at its
//! interpreter, [`Abi1`], and the [manifest](crate::manifest).

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Owner of the notes, with its NUL: 6 bytes, padded to 8 in the file.
pub const OWNER: &[u8; 6] = b"Solo5\0";
/// [`OWNER`] as it lies in the file.
pub const OWNER_PADDED: [u8; 8] = *b"Solo5\0\0\0";
/// Type of the note that holds [`Abi1`]: "ABI1".
pub const TYPE_ABI1: u32 = 0x3149_4241;
/// Type of the note that holds the manifest: "MFT1".
pub const TYPE_MFT1: u32 = 0x3154_464d;

/// Owner of the OpenBSD identification note, with its NUL.
pub const OPENBSD_OWNER: [u8; 8] = *b"OpenBSD\0";
/// Type of the OpenBSD identification note.
pub const OPENBSD_TYPE: u32 = 1;

/// Contents of `PT_INTERP`: no kernel of a host ever finds this file, so none runs a guest by mistake.
pub const INTERPRETER: &[u8; 20] = b"/nonexistent/solo5/\0";

/// `Elf64_Nhdr` followed by a padded owner of 8 bytes: what a note's descriptor comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NoteHeader {
    /// Length of the owner without padding.
    pub namesz: u32,
    /// Length of the descriptor in bytes.
    pub descsz: u32,
    /// Type of the note, private to the owner.
    pub kind: u32,
    /// The owner, padded with NULs.
    pub owner: [u8; 8],
}

/// `struct abi1_info`: which tender a guest was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Abi1 {
    /// A [`Target`].
    pub target: u32,
    /// Version of the target's ABI; for HVT [`ABI_VERSION`](crate::ABI_VERSION).
    pub version: u32,
    /// Zero.
    pub reserved: [u32; 2],
}

/// Kinds of tender that Solo5 knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Target {
    /// Hardware virtualized tender: what this project is.
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
    /// The target with this number, if there is one.
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

    /// Solo5's name for it.
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

/// Bytes from the start of the manifest's note to the manifest: header and owner, then padding to 8.
///
/// The padding counts in the note's `descsz`.
pub const MFT1_OFFSET: usize = 24;

const _: () = {
    assert!(size_of::<NoteHeader>() == 20 && offset_of!(NoteHeader, owner) == 12);
    assert!(size_of::<Abi1>() == 16);
    assert!(MFT1_OFFSET == size_of::<NoteHeader>().next_multiple_of(8));
};
