//! ELF notes that identify a guest to a tender, built at compile time for
//! [`manifest!`](macro@crate::manifest).

use hvt_abi::manifest::{Entry, Header, Kind, MAX_ENTRIES, NAME_MAX, NAME_SIZE, VERSION};
use hvt_abi::note::{
    Abi1, INTERPRETER, MFT1_OFFSET, NoteHeader, OPENBSD_OWNER, OPENBSD_TYPE, OWNER, OWNER_PADDED, TYPE_ABI1, TYPE_MFT1,
    Target,
};

/// A device as declared in the guest's source.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    name: &'static str,
    kind: Kind,
}

impl Device {
    /// Declares a block device.
    pub const fn block(name: &'static str) -> Self {
        Self { name, kind: Kind::Block }
    }

    /// Declares a network device.
    pub const fn net(name: &'static str) -> Self {
        Self { name, kind: Kind::Net }
    }

    /// Returns the manifest entry of the device.
    ///
    /// # Panics
    ///
    /// Panics at compile time if the name is empty, is too long, or contains a character other than
    /// a letter or digit.
    const fn entry(self) -> Entry {
        let text = self.name.as_bytes();
        assert!(!text.is_empty() && text.len() <= NAME_MAX, "a device name has 1 to 67 characters");
        let mut name = [0; NAME_SIZE];
        let mut index = 0;
        while index < text.len() {
            assert!(text[index].is_ascii_alphanumeric(), "a device name consists of letters and digits");
            name[index] = text[index];
            index += 1;
        }
        Entry::new(name, self.kind)
    }

    const fn same_name(self, other: Self) -> bool {
        let (a, b) = (self.name.as_bytes(), other.name.as_bytes());
        if a.len() != b.len() {
            return false;
        }
        let mut index = 0;
        while index < a.len() {
            if a[index] != b[index] {
                return false;
            }
            index += 1;
        }
        true
    }
}

/// MFT1 note with a manifest of `ENTRIES` entries, including the reserved first entry.
#[repr(C)]
pub struct ManifestNote<const ENTRIES: usize> {
    note: NoteHeader,
    padding: [u8; MFT1_OFFSET - size_of::<NoteHeader>()],
    header: Header,
    entries: [Entry; ENTRIES],
}

impl<const ENTRIES: usize> ManifestNote<ENTRIES> {
    /// Creates the note for these devices. Handles are assigned in this order, starting at 1.
    ///
    /// # Panics
    ///
    /// Panics at compile time if there are too many devices, two devices share a name, or a name is
    /// invalid.
    pub const fn new(devices: &[Device]) -> Self {
        assert!(devices.len() < MAX_ENTRIES, "a manifest has at most 63 devices");
        assert!(devices.len() + 1 == ENTRIES);
        let mut entries = [Entry::RESERVED_FIRST; ENTRIES];
        let mut index = 0;
        while index < devices.len() {
            let mut earlier = 0;
            while earlier < index {
                assert!(!devices[index].same_name(devices[earlier]), "two devices in the manifest share a name");
                earlier += 1;
            }
            entries[index + 1] = devices[index].entry();
            index += 1;
        }
        // The descriptor of a note begins directly after its header, so `descsz` includes the
        // padding.
        let descsz = size_of::<Self>() - size_of::<NoteHeader>();
        Self {
            note: NoteHeader {
                namesz: OWNER.len() as u32,
                descsz: descsz as u32,
                kind: TYPE_MFT1,
                owner: OWNER_PADDED,
            },
            padding: [0; _],
            header: Header { version: VERSION, entries: ENTRIES as u32 },
            entries,
        }
    }
}

/// A note without padding.
#[repr(C)]
pub struct Note<T> {
    note: NoteHeader,
    descriptor: T,
}

impl Note<Abi1> {
    /// Identifies the file as a guest for HVT, ABI version 2.
    pub const ABI1: Self = Self {
        note: NoteHeader {
            namesz: OWNER.len() as u32,
            descsz: size_of::<Abi1>() as u32,
            kind: TYPE_ABI1,
            owner: OWNER_PADDED,
        },
        descriptor: Abi1 { target: Target::Hvt as u32, version: hvt_abi::ABI_VERSION, reserved: [0; 2] },
    };
}

impl Note<u32> {
    /// Makes OpenBSD read the interpreter of the file and therefore refuse to execute it.
    pub const OPENBSD: Self = Self {
        note: NoteHeader {
            namesz: OPENBSD_OWNER.len() as u32,
            descsz: size_of::<u32>() as u32,
            kind: OPENBSD_TYPE,
            owner: OPENBSD_OWNER,
        },
        descriptor: 0,
    };
}

/// Interpreter path that does not exist on any host.
pub const INTERP: [u8; INTERPRETER.len()] = *INTERPRETER;

/// Declares the devices that the guest requires, and adds the ELF notes that identify the file as a
/// guest. A guest must contain this macro exactly once, at item level.
///
/// ```ignore
/// guest_bindings::manifest! {
///     block "storage",
///     net "service",
/// }
/// ```
///
/// A guest without devices uses `manifest! {}`. Names consist of 1 to 67 letters and digits. There
/// are at most 63 devices. A violation of these rules is a compile error.
#[macro_export]
macro_rules! manifest {
    ($($kind:ident $name:literal),* $(,)?) => {
        const _: () = {
            const DEVICES: &[$crate::manifest::Device] = &[$($crate::manifest::Device::$kind($name)),*];

            #[used]
            #[unsafe(link_section = ".note.solo5.manifest")]
            static MANIFEST: $crate::manifest::ManifestNote<{ DEVICES.len() + 1 }> =
                $crate::manifest::ManifestNote::new(DEVICES);

            $crate::notes!();
        };
    };
}

/// Notes that every guest contains, regardless of its devices.
#[doc(hidden)]
#[macro_export]
macro_rules! notes {
    () => {
        const _: () = {
            #[used]
            #[unsafe(link_section = ".note.solo5.abi")]
            static ABI: $crate::manifest::Note<$crate::abi::note::Abi1> = $crate::manifest::Note::ABI1;

            #[used]
            #[unsafe(link_section = ".note.solo5.not_openbsd")]
            static OPENBSD: $crate::manifest::Note<u32> = $crate::manifest::Note::OPENBSD;

            #[used]
            #[unsafe(link_section = ".interp")]
            static INTERP: [u8; $crate::manifest::INTERP.len()] = $crate::manifest::INTERP;
        };
    };
}

/// Declares the guest's `main` function, `fn(&StartInfo) -> ExitStatus`. A guest must contain this
/// macro exactly once.
///
/// Bindings for other languages use `entry!(raw main)`, where `main` takes a
/// [`Start`](crate::Start).
#[macro_export]
macro_rules! entry {
    (raw $main:path) => {
        const _: () = {
            #[unsafe(no_mangle)]
            fn __guest_main(start: &$crate::Start) -> $crate::ExitStatus {
                $main(start)
            }
        };
    };
    ($main:path) => {
        const _: () = {
            #[unsafe(no_mangle)]
            fn __guest_main(start: &$crate::Start) -> $crate::ExitStatus {
                $main(&start.info())
            }
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    const NONE: ManifestNote<1> = ManifestNote::new(&[]);
    const TWO: ManifestNote<3> = ManifestNote::new(&[Device::block("disk"), Device::net("net0")]);

    #[test]
    fn manifest_lies_8_aligned_inside_its_note() {
        assert_eq!(offset_of!(ManifestNote<1>, header), MFT1_OFFSET);
        assert_eq!(align_of::<ManifestNote<1>>(), 8);
        assert_eq!(NONE.note.descsz, 4 + 8 + 104);
        assert_eq!(TWO.note.descsz, 4 + 8 + 3 * 104);
        assert_eq!(NONE.entries[0], Entry::RESERVED_FIRST);
    }

    #[test]
    fn devices_follow_the_reserved_entry() {
        assert_eq!(TWO.header.entries, 3);
        assert_eq!(TWO.entries[1].kind, Kind::Block as u32);
        assert_eq!(&TWO.entries[2].name[..5], b"net0\0");
    }

    #[test]
    fn bad_names_are_refused() {
        for name in ["", "a-b", "é", &"x".repeat(68)] {
            let name: &'static str = name.to_owned().leak();
            assert!(std::panic::catch_unwind(|| Device::block(name).entry()).is_err(), "{name:?}");
        }
        Device::block("x".repeat(67).leak()).entry();
        let twice = || ManifestNote::<3>::new(&[Device::block("a"), Device::net("a")]);
        assert!(std::panic::catch_unwind(twice).is_err());
    }
}
