//! Information from the boot loader: command line, memory, modules.
//!
//! Two boot protocols are supported: PVH (QEMU's `-kernel`) and Multiboot2 (GRUB). Both produce a
//! [`Boot`].
//!
//! [`memory_functions`] defines the functions that a program without a C library needs.
#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]
#![no_std]

#[cfg(test)]
extern crate std;

use arrayvec::ArrayVec;
use multiboot2::{BootInformation, BootInformationHeader};

mod headers;
mod mem;
mod multiboot;
mod pvh;
mod start;

pub use multiboot::from_multiboot2;
pub use pvh::from_pvh;
pub use start::{CR0, CR4, EFER};

/// Maximum number of memory ranges, and of modules.
const MAX_RANGES: usize = 64;

/// Half-open range of host-physical addresses (HPA), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysicalRange {
    /// First address.
    pub start: u64,
    /// First address after the range.
    pub end: u64,
}

impl PhysicalRange {
    /// Returns the range of `len` bytes at `start`, truncated at the end of the address space.
    #[must_use]
    pub const fn new(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
    }

    /// Returns the length in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Returns `true` if the range is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start >= self.end
    }
}

/// Information from a boot loader.
#[derive(Debug, Default)]
pub struct Boot<'a> {
    /// The kernel's command line.
    pub command_line: &'a str,
    /// Usable memory, as the firmware reports it. Kernel, modules and `reserved` are inside.
    pub memory: ArrayVec<PhysicalRange, MAX_RANGES>,
    /// Files that the loader loaded into memory.
    pub modules: ArrayVec<PhysicalRange, MAX_RANGES>,
    /// Host-physical address of ACPI's root pointer (RSDP), if the loader reports it.
    pub rsdp: Option<u64>,
    /// Other data of the loader in memory to which this structure refers.
    pub reserved: ArrayVec<PhysicalRange, 4>,
}

impl Boot<'_> {
    /// Returns the free memory: without the firmware's (the first MiB), the kernel, and the
    /// loader's data.
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
                    // An excess range stays unused.
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

/// Reads the information of either loader and calls `then` with it. `eax` and `ebx` are the
/// registers at the entry point of [`headers!`]. `physical` returns the bytes at a host-physical
/// address.
///
/// # Safety
/// Memory that the loader filled must be mapped at its physical address, and must be unmodified.
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
    // SAFETY: the magic number indicates that a Multiboot2 loader left its information there; the
    // caller guarantees the other requirements.
    match unsafe { BootInformation::load(address) } {
        Ok(information) => then(from_multiboot2(&information)),
        Err(_) => then(Err(BootError::Multiboot2)),
    }
}

/// Reason that there is no [`Boot`].
#[derive(Debug, PartialEq, Eq)]
pub enum BootError {
    /// Neither protocol's magic number was found.
    UnknownLoader,
    /// The structure's version is older than the first one with a memory map.
    PvhVersion(u32),
    /// The Multiboot2 information is malformed.
    Multiboot2,
    /// The loader reports no memory map.
    NoMemoryMap,
    /// There are more modules than a [`Boot`] can hold.
    TooManyModules,
    /// The command line is not UTF-8.
    CommandLine,
}

impl core::fmt::Display for BootError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnknownLoader => write!(f, "unknown boot protocol: expected PVH or Multiboot2"),
            Self::PvhVersion(version) => {
                write!(f, "PVH start info has version {version}, but a memory map needs version 1")
            }
            Self::Multiboot2 => write!(f, "malformed Multiboot2 information"),
            Self::NoMemoryMap => write!(f, "the boot loader reports no memory map"),
            Self::TooManyModules => write!(f, "too many modules: at most {MAX_RANGES} are supported"),
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
