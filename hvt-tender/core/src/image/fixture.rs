//! Small valid and invalid unikernels for tests.

use alloc::vec;

use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_INTERP, PT_NOTE};
use hvt_abi::manifest::Kind;
use hvt_abi::note::{INTERPRETER, NoteHeader, OPENBSD_OWNER, OPENBSD_TYPE, Target};
use zerocopy::IntoBytes;

pub use super::write::{Elf, MACHINE, Part, TEXT, manifest};

/// Index into [`Elf::parts`] of the text.
pub const TEXT_PART: usize = 1;
/// Index into [`Elf::parts`] of the read-only data.
pub const RODATA_PART: usize = 2;
/// Index into [`Elf::parts`] of the data.
pub const DATA_PART: usize = 3;
/// Index into [`Elf::parts`] of the `.bss`.
pub const BSS_PART: usize = 5;
/// Index into [`Elf::parts`] of the ABI note.
pub const ABI_PART: usize = 7;
/// Index into [`Elf::parts`] of the manifest's note.
pub const MANIFEST_PART: usize = 8;

impl Elf {
    /// Creates a unikernel like the output of Solo5's toolchain: execute-only text, read-only data,
    /// data, an empty segment, `.bss` in a separate segment, and three notes.
    pub fn unikernel(devices: &[(&str, Kind)]) -> Self {
        let openbsd = NoteHeader { namesz: 8, descsz: 4, kind: OPENBSD_TYPE, owner: OPENBSD_OWNER };
        Self::of([
            Part::other(PT_INTERP, *INTERPRETER),
            Part::load(PF_X, TEXT, 0x1123, vec![0xcc; 0x1123]),
            Part::load(PF_R, TEXT + 0x2000, 0x11, *b"read-only data..."),
            Part::load(PF_R | PF_W, TEXT + 0x3000, 0x800, *b"data"),
            Part::load(PF_R, 0, 0, []),
            Part::load(PF_R | PF_W, TEXT + 0x4000, 0x20_3ca0, []),
            Part::other(PT_NOTE, [openbsd.as_bytes(), &[0; 4]].concat()),
            Part::abi(Target::Hvt as u32, hvt_abi::ABI_VERSION),
            Part::manifest(&manifest(devices)),
        ])
    }

    /// Creates a unikernel without devices that has these segments and starts at the first one.
    pub fn with_segments(segments: impl IntoIterator<Item = Part>) -> Self {
        Self::with_devices(segments, &[])
    }
}
