//! Mapping of the kernel's file, 2 GiB below the end of the address space.

use core::fmt;

use crate::{PAGE_SIZE, handover::Block};

/// Entries of a page table.
pub const ENTRIES: usize = 512;

/// A page table of any level (SDM 4.5).
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
pub struct Table(pub [u64; ENTRIES]);

impl Table {
    /// Table that maps nothing.
    pub const EMPTY: Self = Self([0; ENTRIES]);
}

/// Present and writable (SDM 4.5.4).
pub const PRESENT_WRITABLE: u64 = 1 << 0 | 1 << 1;

/// Number of lowest-level tables: enough for a kernel file of up to 64 MiB.
pub const KERNEL_TABLES: usize = 32;

/// Error: the kernel file of this many bytes exceeds the loader's page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge(pub u64);

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = KERNEL_TABLES * ENTRIES * PAGE_SIZE as usize;
        write!(f, "the kernel file has {} bytes, more than {most}: strip its debug information", self.0)
    }
}

/// Maps the kernel's file by 4 KiB pages, starting at the first address that `tables` cover.
///
/// # Errors
/// Returns [`TooLarge`] if the file does not fit.
pub fn map_kernel(kernel: Block, tables: &mut [Table]) -> Result<(), TooLarge> {
    let pages = kernel.size.div_ceil(PAGE_SIZE) as usize;
    let mut entries = tables.iter_mut().flat_map(|table| &mut table.0);
    for page in 0..pages {
        let entry = entries.next().ok_or(TooLarge(kernel.size))?;
        *entry = (kernel.base + page as u64 * PAGE_SIZE) | PRESENT_WRITABLE;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_mapped_page_by_page() {
        let mut tables = [Table::EMPTY; 2];
        let kernel = Block { base: 0x40_0000, size: 513 * PAGE_SIZE };
        map_kernel(kernel, &mut tables).unwrap();
        assert_eq!((tables[0].0[0], tables[0].0[511]), (0x40_0003, 0x5f_f003));
        assert_eq!(tables[1].0[..2], [0x60_0003, 0]);
        let kernel = Block { size: 1025 * PAGE_SIZE, ..kernel };
        assert_eq!(map_kernel(kernel, &mut tables), Err(TooLarge(kernel.size)));
    }
}
