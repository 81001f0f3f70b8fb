//! Entry code: from the boot loader's 32-bit protected mode to [`load`](crate::load) in long mode.
//!
//! The page tables are the ones that the kernel expects at its entry. They map the first
//! [`GIGABYTES`] of physical memory at their own address and at `PHYS_OFFSET`, by 2 MiB pages, and
//! the kernel's file 2 GiB below the end of the address space.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use hvt_redox_loader::tables::{ENTRIES, KERNEL_TABLES, PRESENT_WRITABLE, Table};

/// Gigabytes of physical memory that the page tables map.
pub(crate) const GIGABYTES: usize = 8;

/// Index of `PHYS_OFFSET` (0xFFFF800000000000) in the top table.
const PHYS_OFFSET: usize = 256;

const STACK_SIZE: usize = 16 * 1024;
#[repr(C, align(16))]
struct Stack([u8; STACK_SIZE]);

static mut STACK: Stack = Stack([0; STACK_SIZE]);
static mut PML4: Table = Table::EMPTY;
static mut PDPT: Table = Table::EMPTY;
static mut PD: [Table; GIGABYTES] = [Table::EMPTY; GIGABYTES];
static mut KERNEL_PDPT: Table = Table::EMPTY;
static mut KERNEL_PD: Table = Table::EMPTY;
static mut KERNEL_PT: [Table; KERNEL_TABLES] = [Table::EMPTY; KERNEL_TABLES];

hvt_boot::start! {
    stack: STACK,
    stack_size: STACK_SIZE,
    pml4: PML4,
    pdpt: PDPT,
    pd: PD,
    gigabytes: GIGABYTES,
    main: crate::load,
}

/// Maps physical memory at `PHYS_OFFSET` as well. Fills the last-level tables of the kernel's
/// addresses with `fill`, and activates them.
///
/// # Safety
/// Must be called once.
pub(crate) unsafe fn map_kernel_with<E>(fill: impl FnOnce(&mut [Table]) -> Result<(), E>) -> Result<(), E> {
    // SAFETY: no other code refers to these tables; the CPU uses them only after the last line.
    unsafe {
        let tables = &raw mut KERNEL_PT;
        fill(&mut *tables)?;
        for index in 0..KERNEL_TABLES {
            KERNEL_PD.0[index] = &raw const (*tables)[index] as u64 | PRESENT_WRITABLE;
        }
        (&raw mut PML4.0[PHYS_OFFSET]).write_volatile(&raw const PDPT as u64 | PRESENT_WRITABLE);
        // 2 GiB below the end of the address space.
        KERNEL_PDPT.0[ENTRIES - 2] = &raw const KERNEL_PD as u64 | PRESENT_WRITABLE;
        (&raw mut PML4.0[ENTRIES - 1]).write_volatile(&raw const KERNEL_PDPT as u64 | PRESENT_WRITABLE);
    }
    // The entries were not present, so the CPU cannot have cached a translation of them (SDM 4.10.2.3).
    Ok(())
}
