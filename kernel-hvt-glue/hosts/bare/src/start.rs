//! Entry code: from the boot loader's 32-bit protected mode to [`kernel_main`](crate::kernel_main)
//! in long mode.
//!
//! Memory is mapped at its physical address: the first 4 GiB by 2 MiB pages, the first 2 MiB by
//! 4 KiB pages once the null page and the pages below the stacks are unmapped.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use raw_cpuid::CpuId;
use x86_64::{VirtAddr, instructions::tlb};

/// Page tables of any level (SDM 4.5).
#[repr(C, align(4096))]
pub(crate) struct Tables<const N: usize>([[u64; 512]; N]);

/// Bit that the CPU sets in an entry that it uses (SDM 4.8).
const ACCESSED: u64 = 1 << 5;

/// Gigabytes mapped at entry.
const GIGABYTES: usize = 4;

pub(crate) static mut PML4: Tables<1> = Tables([[0; 512]]);
static mut PDPT: Tables<1> = Tables([[0; 512]]);
static mut PD: Tables<GIGABYTES> = Tables([[0; 512]; GIGABYTES]);
static mut PT: Tables<1> = Tables([[0; 512]]);

/// Size of a stack in bytes.
pub(crate) const STACK_SIZE: usize = 64 * 1024;

/// A stack with a guard page below it, which [`unmap_low_page`] unmaps.
#[repr(C, align(4096))]
pub(crate) struct Stack {
    guard: [u8; 4096],
    memory: [u8; STACK_SIZE],
}

impl Stack {
    /// An unused stack.
    pub(crate) const NEW: Self = Self { guard: [0; 4096], memory: [0; STACK_SIZE] };
}

/// Stack of `kernel_main`.
#[unsafe(link_section = ".stack")]
static mut STACK: Stack = Stack::NEW;

hvt_boot::start! {
    stack: STACK,
    stack_size: size_of::<Stack>(),
    pml4: PML4,
    pdpt: PDPT,
    pd: PD,
    gigabytes: GIGABYTES,
    main: crate::kernel_main,
}

/// Unmaps the null page and the page below the stack, so that a null pointer or a stack overflow
/// causes a page fault.
///
/// # Safety
/// The null page must not be in use any more; PVH's start info may lie there.
pub(crate) unsafe fn unmap_guards() {
    // SAFETY: the caller guarantees the null page; a stack's guard page holds no data.
    unsafe {
        unmap_low_page(0);
        unmap_low_page(&raw const STACK as u64);
    }
}

/// Maps memory above the part that is mapped at entry, at its physical address, in pages of 1 GiB
/// if the CPU supports them. Returns the first address that is not mapped: at least `end`, if
/// possible.
///
/// # Safety
/// Must be called once, on the boot CPU, before any other CPU runs.
pub(crate) unsafe fn map_up_to(end: u64) -> u64 {
    const GIGABYTE: u64 = 1 << 30;
    /// Present, writable, a page (SDM 4.5.4).
    const LARGE_PAGE: u64 = 1 << 0 | 1 << 1 | 1 << 7;
    let has_large_pages =
        CpuId::new().get_extended_processor_and_feature_identifiers().is_some_and(|info| info.has_1gib_pages());
    let gigabytes =
        if has_large_pages { end.div_ceil(GIGABYTE).clamp(GIGABYTES as u64, 512) } else { GIGABYTES as u64 };
    for index in GIGABYTES as u64..gigabytes {
        // SAFETY: only this CPU uses these tables; the entry was not present.
        unsafe { (&raw mut PDPT.0[0][index as usize]).write_volatile((index * GIGABYTE) | LARGE_PAGE) };
    }
    gigabytes * GIGABYTE
}

/// Makes the 2 MiB at `address` uncached, as device registers require.
///
/// # Safety
/// `address` must be mapped, and no ordinary memory may lie there.
pub(crate) unsafe fn map_uncached(address: u64) {
    /// PWT and PCD (SDM 4.9.2).
    const UNCACHED: u64 = 1 << 3 | 1 << 4;
    let (gigabyte, index) = ((address >> 30) as usize, (address >> 21) as usize % 512);
    // SAFETY: only this CPU uses these tables, and only its MMU reads them.
    unsafe {
        let entry = &raw mut PD.0[gigabyte][index];
        entry.write_volatile(entry.read_volatile() | UNCACHED);
    }
    tlb::flush(VirtAddr::new(address));
}

/// Unmaps the page at this address in the first 2 MiB.
///
/// # Safety
/// The page must not be in use any more.
pub(crate) unsafe fn unmap_low_page(address: u64) {
    /// Present and writable (SDM 4.5.4).
    const PRESENT_WRITABLE: u64 = 1 << 0 | 1 << 1;
    // SAFETY: only the MMUs of CPUs read these tables, and no other CPU has used the page yet. The
    // 4 KiB pages translate to the same addresses as the 2 MiB page that they replace.
    unsafe {
        let (pd, pt) = (&raw mut PD.0[0][0], &raw mut PT.0[0]);
        let entry = &raw const PT as u64 | PRESENT_WRITABLE;
        if pd.read_volatile() & !ACCESSED != entry {
            for (index, page) in (*pt).iter_mut().enumerate() {
                *page = (index as u64 * 4096) | PRESENT_WRITABLE;
            }
            pd.write_volatile(entry);
            tlb::flush_all();
        }
        (&raw mut PT.0[0][address as usize / 4096]).write_volatile(0);
    }
    tlb::flush(VirtAddr::new(address));
}
