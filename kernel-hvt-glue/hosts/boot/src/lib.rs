//! What the boot loader says: command line, memory, modules.
//!
//! Two boot protocols lead here: PVH (QEMU's `-kernel`) and Multiboot2 (GRUB). Both are turned into one [`Boot`].
//!
//! [`memory_functions`] defines what a program needs that is linked without a C library.
#![no_std]

#[cfg(test)]
extern crate std;

use arrayvec::ArrayVec;
use multiboot2::{BootInformation, BootInformationHeader};

mod headers;
mod mem;
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
    /// Host-physical address of ACPI's root pointer (RSDP), where the loader tells.
    pub rsdp: Option<u64>,
    /// What else the loader left in memory and this structure refers to.
    pub reserved: ArrayVec<PhysicalRange, 4>,
}

impl Boot<'_> {
    /// The memory that nothing occupies: neither firmware (the first MiB), nor the kernel, nor what the loader left.
    #[must_use]
    pub fn free_memory(&self, kernel: PhysicalRange) -> ArrayVec<PhysicalRange, MAX_RANGES> {
        let mut free = self.memory.clone();
        let firmware = PhysicalRange { start: 0, end: 1 << 20 };
        for taken in [firmware, kernel].iter().chain(&self.modules).chain(&self.reserved) {
            for index in 0..free.len() {
                let range = free[index];
                let before = PhysicalRange { start: range.start, end: range.end.min(taken.start) };
                let after = PhysicalRange { start: range.start.max(taken.end), end: range.end };
                free[index] = if before.is_empty() { after } else { before };
                if !before.is_empty() && !after.is_empty() {
                    // A piece too many stays unused.
                    let _ = free.try_push(after);
                }
            }
            free.retain(|range| !range.is_empty());
        }
        free
    }

    fn add_module(&mut self, module: PhysicalRange) -> Result<(), BootError> {
        self.modules.try_push(module).map_err(|_| BootError::TooManyModules)
    }
}

/// Reads what either loader left, given EAX and EBX at the entry point that [`headers!`] tells of, and does `then` with it.
/// `physical` returns the bytes at a host-physical address.
///
/// # Safety
/// Memory that the loader filled is mapped at its physical address, and as the loader left it.
pub unsafe fn read<R>(
    eax: u32,
    ebx: u32,
    physical: impl Fn(u64, usize) -> &'static [u8],
    then: impl FnOnce(Result<Boot<'_>, BootError>) -> R,
) -> R {
    if eax != multiboot2::MAGIC {
        return then(from_pvh(ebx.into(), physical));
    }
    let address = core::ptr::with_exposed_provenance::<BootInformationHeader>(ebx as usize);
    // SAFETY: the magic number says that a Multiboot2 loader left its information there; the rest is the caller's promise.
    match unsafe { BootInformation::load(address) } {
        Ok(information) => then(from_multiboot2(&information)),
        Err(_) => then(Err(BootError::Multiboot2)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_leaves_out_what_is_taken() {
        let range = |start, end| PhysicalRange { start, end };
        let mut boot = Boot::default();
        boot.memory.extend([range(0, 0x9_f000), range(0x10_0000, 0x200_0000), range(0x300_0000, 0x400_0000)]);
        boot.modules.extend([
            range(0x50_0000, 0x60_0000),
            range(0x1f0_0000, 0x200_0000),
            range(0x300_0000, 0x400_0000),
        ]);
        boot.reserved.push(range(0x55_0000, 0x70_0000));
        let free = boot.free_memory(range(0x10_0000, 0x20_0000));
        assert_eq!(free[..], [range(0x20_0000, 0x50_0000), range(0x70_0000, 0x1f0_0000)]);
    }
}
