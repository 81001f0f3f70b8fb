//! Errors in unikernel files.

use alloc::format;
use alloc::string::String;
use core::fmt;

use goblin::elf::header::{EM_AARCH64, EM_X86_64, et_to_str, machine_to_str};
use hvt_abi::manifest::{MAX_ENTRIES, NAME_MAX};
use hvt_abi::note::Target;
use hvt_abi::{ABI_VERSION, GUEST_MIN_BASE, Gpa, GuestRange};

/// Reason why a file cannot be run. The message is one line that names the defect and the remedy;
/// the caller adds the file name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file does not start with the ELF magic number.
    #[error("not an ELF file; name a Solo5 unikernel built for the target hvt")]
    NotElf,
    /// The file ends before a structure that its headers describe.
    #[error("the file is truncated: {what} ends at byte {end}, but the file has {len}; copy or build it again")]
    Truncated {
        /// Name of the structure that is at least partly missing.
        what: &'static str,
        /// File offset of the first byte after the structure.
        end: u64,
        /// Length of the file in bytes.
        len: u64,
    },
    /// A field of the ELF header has an invalid value.
    #[error("damaged ELF header: {field} is {found}, not {expected}; rebuild the unikernel")]
    Header {
        /// Name of the field in the ELF specification.
        field: &'static str,
        /// Value of the field.
        found: u64,
        /// Expected value.
        expected: u64,
    },
    /// 32-bit file.
    #[error("a 32-bit program; unikernels are 64-bit: build it for {}", machine(NATIVE_MACHINE))]
    Bits32,
    /// Big-endian file.
    #[error("a big-endian program; unikernels are little-endian: build it for {}", machine(NATIVE_MACHINE))]
    BigEndian,
    /// File for another CPU architecture.
    #[error("built for {}, but this machine is {}: rebuild it for this machine", machine(*.0), machine(NATIVE_MACHINE))]
    Machine(u16),
    /// ELF file that is not a unikernel.
    #[error("not a unikernel but {0}; build it with a Solo5 toolchain for the target hvt")]
    NotUnikernel(Foreign),
    /// Unikernel that is not linked for a fixed address.
    #[error("the unikernel is of ELF type {}, not EXEC; link it with -static -no-pie", et_to_str(*.0))]
    NotExecutable(u16),
    /// Unikernel for another Solo5 target.
    #[error("was built for Solo5 target {}; this tender runs hvt: rebuild it for hvt", target(*.0))]
    Target(u32),
    /// Unikernel for another ABI version.
    #[error("{}", version(*.0))]
    Version(u32),
    /// Note whose size does not match its type.
    #[error(
        "program header {index}: {what} note does not fall within valid size ({size} bytes, not {}); \
         rebuild the unikernel",
        sizes(*min, *max)
    )]
    NoteSize {
        /// Index of the note's program header.
        index: usize,
        /// Type of the note.
        what: &'static str,
        /// Size of the note in bytes.
        size: u64,
        /// Minimum size.
        min: u64,
        /// Maximum size; [`u64::MAX`] if there is none.
        max: u64,
    },
    /// Second note of a type that must be unique.
    #[error("program header {index}: a second {what} note; link the unikernel with one")]
    DuplicateNote {
        /// Index of the second note's program header.
        index: usize,
        /// Type of the note.
        what: &'static str,
    },
    /// Unikernel without a manifest.
    #[error("the unikernel has no manifest; link it with one, even an empty one")]
    NoManifest,
    /// Invalid manifest.
    #[error("the unikernel's manifest is invalid: {0}; rebuild it")]
    Manifest(ManifestError),
    /// Invalid segment.
    #[error("program header {index}: the segment {problem}; link the unikernel with Solo5's linker script for hvt")]
    Segment {
        /// Index of the segment's program header.
        index: usize,
        /// Problem of the segment.
        problem: SegmentError,
    },
    /// The entry point lies outside of all executable segments.
    #[error("the entry point {entry} lies in no executable segment; link the unikernel with Solo5's linker script")]
    Entry {
        /// The entry point.
        entry: Gpa,
    },
}

/// The text of an [`ImageError::Manifest`] has the cause, so the cause is not its source.
impl From<ManifestError> for ImageError {
    fn from(problem: ManifestError) -> Self {
        Self::Manifest(problem)
    }
}

/// Kind of an ELF file that is not a unikernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Foreign {
    /// Program with an interpreter.
    Dynamic,
    /// Position-independent program or library.
    Relocatable,
    /// Static program.
    Static,
    /// Object file.
    Object,
    /// Core dump.
    Core,
    /// ELF type that this project has no name for.
    Other(u16),
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dynamic => "an ordinary, dynamically linked program",
            Self::Relocatable => "an ordinary position-independent program or library",
            Self::Static => "an ordinary static program (it has no Solo5 ABI note)",
            Self::Object => "an object file",
            Self::Core => "a core dump",
            Self::Other(kind) => return write!(f, "an ELF file of type {kind:#x}"),
        })
    }
}

/// Problem of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Unknown version.
    #[error("version is {0}, not {version}", version = hvt_abi::manifest::VERSION)]
    Version(u32),
    /// Zero entries, or too many.
    #[error("it has {0} entries, not 1 to {MAX_ENTRIES}")]
    Entries(u32),
    /// The size of the manifest does not match its number of entries.
    #[error("its {entries} entries take {expected} bytes, but it has {found}")]
    Size {
        /// Number of entries according to the header.
        entries: u32,
        /// Size of that many entries in bytes.
        expected: u64,
        /// Actual size in bytes.
        found: u64,
    },
    /// The first entry is not the reserved one.
    #[error("its first entry is not the reserved one")]
    FirstEntry,
    /// A name is empty, too long, or has characters other than letters and digits.
    #[error("entry {0} has a name that is not 1 to {NAME_MAX} letters and digits")]
    Name(usize),
    /// Two devices have the same name.
    #[error("two entries have the name '{0}'")]
    DuplicateName(String),
    /// Unknown type of an entry.
    #[error("entry {index} is of an unknown type, {kind:#x}")]
    Kind {
        /// Index of the entry.
        index: usize,
        /// Type of the entry.
        kind: u32,
    },
    /// An entry is marked as attached.
    #[error("entry {0} is marked as attached, which only a tender may do")]
    Attached(usize),
}

/// Problem of a segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The alignment is not a power of two.
    #[error("has an alignment of {0:#x}, which is not a power of two")]
    Alignment(u64),
    /// The start or end is not on a page boundary, even when rounded to the segment's alignment.
    #[error("does not start and end on page boundaries: its boundary {0} is in the middle of a page")]
    Unaligned(Gpa),
    /// The segment has more bytes in the file than in memory.
    #[error("has {file:#x} bytes in the file, but only {memory:#x} in memory")]
    FileExceedsMemory {
        /// Bytes in the file.
        file: u64,
        /// Bytes in memory.
        memory: u64,
    },
    /// The segment starts below the first address that a guest may use.
    #[error("starts at {0}, below {GUEST_MIN_BASE}")]
    TooLow(Gpa),
    /// The segment ends beyond the largest guest memory.
    #[error("of {len:#x} bytes at {start} ends above 4 GiB")]
    TooHigh {
        /// First address of the segment.
        start: Gpa,
        /// Length of the segment in bytes.
        len: u64,
    },
    /// The segment lies below the previous one.
    #[error("at {0} is not in ascending order")]
    NotAscending(Gpa),
    /// The segment shares a page with the previous one.
    #[error("at {0} overlaps the previous one")]
    Overlap(GuestRange),
    /// The segment is both writable and executable.
    #[error("at {0} is writable and executable at once")]
    WritableAndExecutable(GuestRange),
}

/// ELF machine number of this CPU.
pub(super) const NATIVE_MACHINE: u16 = if cfg!(target_arch = "aarch64") { EM_AARCH64 } else { EM_X86_64 };

fn machine(machine: u16) -> String {
    match machine {
        EM_X86_64 => "x86_64".into(),
        EM_AARCH64 => "aarch64".into(),
        // goblin calls the machines unknown that it has no name for.
        other => format!("{} (ELF machine {other})", machine_to_str(other)),
    }
}

fn target(target: u32) -> String {
    Target::from_u32(target).map_or_else(|| format!("number {target}"), |target| target.name().into())
}

fn sizes(min: u64, max: u64) -> String {
    match max {
        u64::MAX => format!("{min} or more"),
        _ if min >= max => format!("{max}"),
        _ => format!("{min} to {max}"),
    }
}

fn version(version: u32) -> String {
    if version < ABI_VERSION {
        format!("was built with Solo5 < 0.9 (hvt ABI version {version}); rebuild it with Solo5 0.9 or later")
    } else {
        format!("needs hvt ABI version {version}, this tender speaks version {ABI_VERSION}; use a newer tender")
    }
}
