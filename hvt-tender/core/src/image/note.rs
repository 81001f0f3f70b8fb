//! ELF notes that mark a program as a Solo5 unikernel.

use core::ops::RangeInclusive;

use goblin::elf::ProgramHeader;
use goblin::elf::program_header::PT_NOTE;
use hvt_abi::ABI_VERSION;
use hvt_abi::manifest::{Entry, Header, MAX_ENTRIES};
use hvt_abi::note::{Abi1, MFT1_OFFSET, NoteHeader, OWNER, TYPE_ABI1, TYPE_MFT1, Target};
use zerocopy::FromBytes;

use super::error::ImageError;
use super::header::{contents, truncated};

/// Target and ABI version of a unikernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abi {
    /// Solo5's number of the target; see [`Target`].
    pub target: u32,
    /// Version of the target's ABI.
    pub version: u32,
}

impl Abi {
    /// Returns an error unless the unikernel was built for this tender.
    pub(super) fn check(self) -> Result<(), ImageError> {
        if self.target != Target::Hvt as u32 {
            return Err(ImageError::Target(self.target));
        }
        if self.version != ABI_VERSION {
            return Err(ImageError::Version(self.version));
        }
        Ok(())
    }
}

/// Solo5's notes in a file.
#[derive(Default)]
pub(super) struct Notes<'a> {
    pub(super) abi: Option<Abi>,
    /// Manifest without the note's header and padding.
    pub(super) manifest: Option<&'a [u8]>,
}

/// Length of a note header without owner (`Elf64_Nhdr`) in bytes.
const NOTE_MIN: usize = 12;
/// Padding between owner and manifest, part of the note's descriptor.
const MFT1_PADDING: usize = MFT1_OFFSET - size_of::<NoteHeader>();
const MFT1_MIN: usize = MFT1_PADDING + size_of::<Header>();
const MFT1_MAX: usize = MFT1_MIN + MAX_ENTRIES * size_of::<Entry>();

impl<'a> Notes<'a> {
    /// Examines the first note of every `PT_NOTE`. Solo5's linker scripts give each note a separate
    /// program header, and no note can follow the manifest note because of its alignment.
    pub(super) fn find(file: &'a [u8], program: &[ProgramHeader]) -> Result<Self, ImageError> {
        let mut found = Self::default();
        for (index, header) in program.iter().enumerate().filter(|(_, header)| header.p_type == PT_NOTE) {
            let note = contents(file, header).ok_or_else(|| truncated(file, header, "a note"))?;
            if note.len() < NOTE_MIN {
                return Err(size_error(index, "ELF", note.len(), NOTE_MIN..=usize::MAX));
            }
            let Ok((head, rest)) = NoteHeader::read_from_prefix(note) else { continue };
            if head.namesz as usize != OWNER.len() || !head.owner.starts_with(OWNER) {
                continue;
            }
            match head.kind {
                TYPE_ABI1 => {
                    let descriptor = descriptor(index, "ABI1", &head, rest, size_of::<Abi1>()..=size_of::<Abi1>())?;
                    let Ok((abi, _)) = Abi1::read_from_prefix(descriptor) else { continue };
                    let abi = Abi { target: abi.target, version: abi.version };
                    if found.abi.replace(abi).is_some() {
                        return Err(ImageError::DuplicateNote { index, what: "ABI1" });
                    }
                }
                TYPE_MFT1 => {
                    let descriptor = descriptor(index, "MFT1", &head, rest, MFT1_MIN..=MFT1_MAX)?;
                    if found.manifest.replace(descriptor.get(MFT1_PADDING..).unwrap_or_default()).is_some() {
                        return Err(ImageError::DuplicateNote { index, what: "MFT1" });
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// Returns the descriptor of a note, given the bytes `rest` behind its header, if its length is in
/// `valid` and the bytes are present.
fn descriptor<'a>(
    index: usize,
    what: &'static str,
    head: &NoteHeader,
    rest: &'a [u8],
    valid: RangeInclusive<usize>,
) -> Result<&'a [u8], ImageError> {
    let size = head.descsz as usize;
    if !valid.contains(&size) {
        return Err(size_error(index, what, size, valid));
    }
    rest.get(..size).ok_or_else(|| size_error(index, what, size, *valid.start()..=rest.len()))
}

fn size_error(index: usize, what: &'static str, size: usize, valid: RangeInclusive<usize>) -> ImageError {
    ImageError::NoteSize { index, what, size: size as u64, min: *valid.start() as u64, max: *valid.end() as u64 }
}
