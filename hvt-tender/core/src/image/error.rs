//! What can be wrong with a file.

use alloc::format;
use alloc::string::String;
use core::fmt;

use goblin::elf::header::{EM_AARCH64, EM_X86_64, et_to_str, machine_to_str};
use hvt_abi::manifest::{MAX_ENTRIES, NAME_MAX};
use hvt_abi::note::Target;
use hvt_abi::{ABI_VERSION, GUEST_MIN_BASE, Gpa, GuestRange};

/// Why a file cannot be run. The message is one line that names the file's fault and what to do about it; whoever
/// prints it adds the file's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file does not begin as ELF files do.
    #[error("not an ELF file; name a Solo5 unikernel built for the target hvt")]
    NotElf,
    /// The file ends before something it announces.
    #[error("the file is truncated: {what} would end at byte {end}, but it has {len}; copy or build it again")]
    Truncated {
        /// What is missing, at least in part.
        what: &'static str,
        /// Offset in the file of the first byte after it.
        end: u64,
        /// Length of the file in bytes.
        len: u64,
    },
    /// A field of the ELF header has a value that no unikernel has.
    #[error("damaged ELF header: {field} is {found}, not {expected}; rebuild the unikernel")]
    Header {
        /// Name of the field in the ELF specification.
        field: &'static str,
        /// What stands there.
        found: u64,
        /// What must stand there.
        expected: u64,
    },
    /// A 32-bit file.
    #[error("a 32-bit program; unikernels are 64-bit: build it for {}", machine(NATIVE_MACHINE))]
    Bits32,
    /// A file for machines of the other byte order.
    #[error("a big-endian program; unikernels are little-endian: build it for {}", machine(NATIVE_MACHINE))]
    BigEndian,
    /// A file for another kind of CPU.
    #[error("built for {}, but this machine is {}: build it for the latter", machine(*.0), machine(NATIVE_MACHINE))]
    Machine(u16),
    /// An ELF file of another kind.
    #[error("not a unikernel but {0}; build it with a Solo5 toolchain for the target hvt")]
    NotUnikernel(Foreign),
    /// A unikernel that is not linked for a fixed address.
    #[error("the unikernel is of ELF type {}, not EXEC; link it with -static -no-pie", et_to_str(*.0))]
    NotExecutable(u16),
    /// A unikernel for another of Solo5's targets.
    #[error("was built for Solo5 target {}; this tender runs hvt: rebuild it for hvt", target(*.0))]
    Target(u32),
    /// A unikernel for another version of the ABI.
    #[error("{}", version(*.0))]
    Version(u32),
    /// A note is too short or too long for what it says it is.
    #[error(
        "program header {index}: {what} note does not fall within valid size ({size} bytes, not {}); \
         rebuild the unikernel",
        sizes(*min, *max)
    )]
    NoteSize {
        /// Index of its program header.
        index: usize,
        /// What kind of note.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// Least size.
        min: u64,
        /// Largest size, [`u64::MAX`] where there is none.
        max: u64,
    },
    /// Two notes of a kind of which there must be one.
    #[error("program header {index}: a second {what} note; link the unikernel with one")]
    DuplicateNote {
        /// Index of the second one's program header.
        index: usize,
        /// What kind of note.
        what: &'static str,
    },
    /// A unikernel without a manifest.
    #[error("the unikernel has no manifest; link it with one, even an empty one")]
    NoManifest,
    /// A manifest that breaks the rules.
    #[error("the unikernel's manifest is invalid: {0}; rebuild it")]
    Manifest(#[from] ManifestError),
    /// A segment that breaks the rules.
    #[error("program header {index}: the segment {problem}; link the unikernel with Solo5's linker script for hvt")]
    Segment {
        /// Index of its program header.
        index: usize,
        /// Which rule.
        problem: SegmentError,
    },
    /// The guest would start to run where there is no code.
    #[error("the entry point {entry} lies in no executable segment; link the unikernel with Solo5's linker script")]
    Entry {
        /// The entry point.
        entry: Gpa,
    },
}

/// An ELF file that is no unikernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Foreign {
    /// A program with an interpreter.
    Dynamic,
    /// A program or library that may be loaded anywhere.
    Relocatable,
    /// A static program.
    Static,
    /// An object file.
    Object,
    /// A core dump.
    Core,
    /// An ELF type this project has no name for.
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

/// Which rule of the manifest is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Unknown version.
    #[error("it is of version {0}, not {version}", version = hvt_abi::manifest::VERSION)]
    Version(u32),
    /// Too few or too many entries.
    #[error("it has {0} entries, not 1 to {MAX_ENTRIES}")]
    Entries(u32),
    /// It is not as long as its entries.
    #[error("its {entries} entries take {expected} bytes, but it has {found}")]
    Size {
        /// How many entries it says to have.
        entries: u32,
        /// How many bytes those take.
        expected: u64,
        /// How many it has.
        found: u64,
    },
    /// The first entry is not the reserved one.
    #[error("its first entry is not the reserved one")]
    FirstEntry,
    /// A name that is empty, too long or has other characters than letters and digits.
    #[error("entry {0} has a name that is not 1 to {NAME_MAX} letters and digits")]
    Name(usize),
    /// Two devices of one name.
    #[error("two entries have the name '{0}'")]
    DuplicateName(String),
    /// An entry of no kind that is known.
    #[error("entry {index} is of an unknown type, {kind:#x}")]
    Kind {
        /// Index of the entry.
        index: usize,
        /// What stands there.
        kind: u32,
    },
    /// An entry says that its device is attached already.
    #[error("entry {0} says that it is attached, which only a tender may say")]
    Attached(usize),
}

/// Which rule of segments is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// Alignment that is no power of two.
    #[error("has an alignment of {0:#x}, which is not a power of two")]
    Alignment(u64),
    /// Its start or end is not on a page boundary, and its alignment does not put it there.
    #[error("does not start and end on page boundaries: its boundary {0} is in the middle of a page")]
    Unaligned(Gpa),
    /// More bytes in the file than in memory.
    #[error("has {file:#x} bytes in the file, but only {memory:#x} in memory")]
    FileExceedsMemory {
        /// Bytes in the file.
        file: u64,
        /// Bytes in memory.
        memory: u64,
    },
    /// Below what a guest may use.
    #[error("starts at {0}, below {GUEST_MIN_BASE}")]
    TooLow(Gpa),
    /// Beyond the largest guest memory.
    #[error("of {len:#x} bytes at {start} ends above 4 GiB")]
    TooHigh {
        /// Its first address.
        start: Gpa,
        /// Its length in bytes.
        len: u64,
    },
    /// Below the segment before it.
    #[error("at {0} does not come in ascending order")]
    NotAscending(Gpa),
    /// It shares a page with the segment before it.
    #[error("at {0} overlaps the one before it")]
    Overlap(GuestRange),
    /// Writable and executable at once.
    #[error("at {0} is writable and executable at once")]
    WritableAndExecutable(GuestRange),
}

/// The ELF machine of the CPU this runs on.
pub(super) const NATIVE_MACHINE: u16 = if cfg!(target_arch = "aarch64") { EM_AARCH64 } else { EM_X86_64 };

fn machine(machine: u16) -> String {
    match machine {
        EM_X86_64 => "x86_64".into(),
        EM_AARCH64 => "aarch64".into(),
        // goblin knows no name for a few; those it calls unknown.
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
