//! Structures that the kernel expects at its entry, and the placement of its files in memory.

use core::fmt;

use arrayvec::ArrayVec;
use hvt_boot::{Boot, PhysicalRange};
use zerocopy::{Immutable, IntoBytes};

use crate::PAGE_SIZE;

/// Maximum number of memory ranges passed to the kernel.
pub const AREAS_MAX: usize = 65;

/// `KernelArgs`, the structure that RDI points to. Addresses are physical, sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Immutable, IntoBytes)]
#[repr(C)]
pub struct KernelArgs {
    /// The kernel's file.
    pub kernel: Block,
    /// Unused on x86: the kernel brings its own stack.
    pub stack: Block,
    /// Environment: lines of `KEY=VALUE`.
    pub env: Block,
    /// ACPI's root pointer (RSDP), or an empty block.
    pub hwdesc: Block,
    /// An array of [`Area`].
    pub areas: Block,
    /// Image of the first process.
    pub bootstrap: Block,
}

const _: () = assert!(size_of::<KernelArgs>() == 12 * size_of::<u64>());

/// Range of physical memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Immutable, IntoBytes)]
#[repr(C)]
pub struct Block {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub size: u64,
}

/// `BootloaderMemoryEntry`: type of a range of physical memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Immutable, IntoBytes)]
#[repr(C)]
pub struct Area {
    /// The range.
    pub block: Block,
    /// [`FREE`] or [`RESERVED`].
    pub kind: u64,
}

/// Type of memory that the kernel may use.
pub const FREE: u64 = 1;
/// Type of memory that the kernel must not use.
pub const RESERVED: u64 = 3;

/// Location of kernel and first process in physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// The kernel's file.
    pub kernel: Block,
    /// The first process. Its size is a multiple of the page size, because the kernel ignores a
    /// partial page.
    pub init: Block,
}

/// Error: no contiguous free memory of this many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom(pub u64);

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no contiguous free memory of {} bytes", self.0)
    }
}

/// Allocates memory for kernel and first process, of these sizes in bytes, below `limit`. The
/// blocks do not overlap the loader or the data of the boot loader.
///
/// # Errors
/// Returns [`NoRoom`] if no free range is large enough.
pub fn place(boot: &Boot<'_>, loader: PhysicalRange, limit: u64, kernel: usize, init: usize) -> Result<Places, NoRoom> {
    let mut free = boot.free_memory(loader);
    let mut take = |size: usize| {
        let size = (size as u64).next_multiple_of(PAGE_SIZE);
        let fits = |range: &&mut PhysicalRange| {
            let start = range.start.next_multiple_of(PAGE_SIZE);
            start.checked_add(size).is_some_and(|end| end <= range.end.min(limit))
        };
        let range = free.iter_mut().find(fits).ok_or(NoRoom(size))?;
        let base = range.start.next_multiple_of(PAGE_SIZE);
        range.start = base + size;
        Ok(Block { base, size })
    };
    Ok(Places { kernel: take(kernel)?, init: take(init)? })
}

/// Returns the memory map for the kernel. The kernel itself excludes the blocks of [`KernelArgs`]
/// and memory below 1 MiB. It does not exclude the loader, whose page tables it uses at first, so
/// the map reserves the loader.
#[must_use]
pub fn areas(boot: &Boot<'_>, loader: PhysicalRange) -> ArrayVec<Area, AREAS_MAX> {
    let area = |range: &PhysicalRange, kind| Area { block: Block { base: range.start, size: range.len() }, kind };
    let free = boot.memory.iter().map(|range| area(range, FREE));
    free.chain([area(&loader, RESERVED)]).collect()
}

/// Converts a command line to the kernel's environment: each word becomes a line. Returns the
/// length in bytes, or `None` if the environment does not fit into `into`.
pub fn environment(command_line: &str, into: &mut [u8]) -> Option<usize> {
    let mut len = 0;
    for word in command_line.split_ascii_whitespace() {
        let end = len + word.len();
        into.get_mut(len..end)?.copy_from_slice(word.as_bytes());
        *into.get_mut(end)? = b'\n';
        len = end + 1;
    }
    Some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOADER: PhysicalRange = PhysicalRange { start: 0x10_0000, end: 0x18_0000 };

    fn boot() -> Boot<'static> {
        let mut boot = Boot::default();
        boot.memory.extend([PhysicalRange::new(0, 0x9_fc00), PhysicalRange::new(0x10_0000, 0x100_0000)]);
        boot.modules.push(PhysicalRange::new(0x20_0000, 0x1234));
        boot
    }

    #[test]
    fn places_lie_in_free_memory_and_do_not_overlap() {
        let places = place(&boot(), LOADER, u64::MAX, 0x7_f001, 0x1001).unwrap();
        // Between loader and module, and after the module.
        assert_eq!(places.kernel, Block { base: 0x18_0000, size: 0x8_0000 });
        assert_eq!(places.init, Block { base: 0x20_2000, size: 0x2000 });
        assert_eq!(place(&boot(), LOADER, u64::MAX, 0x100_0000, 1), Err(NoRoom(0x100_0000)));
        assert_eq!(place(&boot(), LOADER, 0x20_0000, 0x8_0000, 1), Err(NoRoom(0x1000)));
    }

    #[test]
    fn all_memory_is_free_but_the_loader() {
        let area = |base, size, kind| Area { block: Block { base, size }, kind };
        let expected =
            [area(0, 0x9_fc00, FREE), area(0x10_0000, 0x100_0000, FREE), area(0x10_0000, 0x8_0000, RESERVED)];
        assert_eq!(areas(&boot(), LOADER)[..], expected);
    }

    #[test]
    fn words_become_lines() {
        let mut bytes = [0; 8];
        assert_eq!(environment(" A=1  B ", &mut bytes), Some(6));
        assert_eq!(&bytes[..6], b"A=1\nB\n");
        assert_eq!(environment("", &mut bytes), Some(0));
        assert_eq!(environment("A=1 B=1", &mut bytes), Some(8));
        assert_eq!(environment("A=1 B=12", &mut bytes), None);
        assert_eq!(environment("123456789", &mut bytes), None);
    }
}
