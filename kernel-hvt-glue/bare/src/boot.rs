//! What the boot loader says: command line, memory, modules.
//!
//! Two boot protocols lead here: PVH (QEMU's `-kernel`) and Multiboot2 (GRUB). Both are turned into one [`Boot`].

use arrayvec::ArrayVec;

mod multiboot;
mod pvh;

pub use multiboot::from_multiboot2;
pub use pvh::from_pvh;

/// Ranges of memory, and modules, at most.
const MAX_RANGES: usize = 64;

/// A half-open range of host-physical addresses (HPA), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysicalRange {
    /// First address.
    pub start: u64,
    /// First address after the range.
    pub end: u64,
}

impl PhysicalRange {
    /// The range of `len` bytes at `start`, cut off at the end of the address space.
    #[must_use]
    pub const fn new(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether the range holds no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start >= self.end
    }
}

/// Everything a boot loader hands over.
#[derive(Debug, Default)]
pub struct Boot<'a> {
    /// The kernel's command line.
    pub command_line: &'a str,
    /// Usable memory, as the firmware reports it; kernel, modules and `reserved` lie in it.
    pub memory: ArrayVec<PhysicalRange, MAX_RANGES>,
    /// Files that the loader put in memory.
    pub modules: ArrayVec<PhysicalRange, MAX_RANGES>,
    /// What else the loader left in memory and this structure refers to.
    pub reserved: ArrayVec<PhysicalRange, 4>,
}

impl Boot<'_> {
    fn add_module(&mut self, module: PhysicalRange) -> Result<(), BootError> {
        self.modules.try_push(module).map_err(|_| BootError::TooManyModules)
    }
}

/// Why there is no [`Boot`].
#[derive(Debug, PartialEq, Eq)]
pub enum BootError {
    /// Neither protocol's magic number was found.
    UnknownLoader,
    /// The structure is older than the version that carries a memory map.
    PvhVersion(u32),
    /// The Multiboot2 information is malformed.
    Multiboot2,
    /// The loader reports no memory map.
    NoMemoryMap,
    /// More modules than a [`Boot`] holds.
    TooManyModules,
    /// The command line is not UTF-8.
    CommandLine,
}

impl core::fmt::Display for BootError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnknownLoader => write!(f, "not booted by PVH or Multiboot2"),
            Self::PvhVersion(version) => {
                write!(f, "PVH start info has version {version}, 1 is needed for a memory map")
            }
            Self::Multiboot2 => write!(f, "malformed Multiboot2 information"),
            Self::NoMemoryMap => write!(f, "the boot loader reports no memory"),
            Self::TooManyModules => write!(f, "more than {MAX_RANGES} modules"),
            Self::CommandLine => write!(f, "the command line is not UTF-8"),
        }
    }
}
