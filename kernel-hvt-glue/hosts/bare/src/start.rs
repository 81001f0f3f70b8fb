//! Entry code: from the boot loader's 32-bit protected mode to [`kernel_main`](crate::kernel_main)
//! in long mode.
//!
//! One entry point serves both protocols: PVH (EBX = start info) and Multiboot2 (EAX = magic, EBX =
//! information). Memory is mapped at its physical address: the first 4 GiB by 2 MiB pages, the
//! first 2 MiB by 4 KiB pages, so that the null page and the pages below the stacks can be unmapped
//! later.

use core::arch::global_asm;

use raw_cpuid::CpuId;
use x86_64::{VirtAddr, instructions::tlb};

/// Page tables of any level (SDM 4.5).
#[repr(C, align(4096))]
pub(crate) struct Tables<const N: usize>([[u64; 512]; N]);

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

hvt_boot::headers!();

global_asm!(
    r#"
    .section .text.start, "ax"
    .code32
    .globl start32
start32:
    cli
    cld
    mov esp, offset {stack} + {stack_top}
    mov esi, eax                // kept for kernel_main
    mov ebp, ebx

    // PD: 2 MiB pages, present and writable.
    mov edi, offset {pd}
    mov eax, 0x83
    mov ecx, {gigabytes} * 512
2:  mov [edi], eax
    add edi, 8
    add eax, 0x200000
    dec ecx
    jnz 2b

    // PT: 4 KiB pages.
    mov edi, offset {pt}
    mov eax, 3
    mov ecx, 512
3:  mov [edi], eax
    add edi, 8
    add eax, 0x1000
    dec ecx
    jnz 3b
    mov eax, offset {pt} + 3
    mov [{pd}], eax

    // PDPT and PML4.
    mov edi, offset {pdpt}
    mov eax, offset {pd} + 3
    mov ecx, {gigabytes}
4:  mov [edi], eax
    add edi, 8
    add eax, 0x1000
    dec ecx
    jnz 4b
    mov eax, offset {pdpt} + 3
    mov [{pml4}], eax

    mov eax, cr4
    or  eax, (1 << 5) | (1 << 7) | (1 << 9) | (1 << 10)             // PAE, PGE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, offset {pml4}
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or  eax, (1 << 8) | (1 << 11)                                   // EFER: LME, NXE
    wrmsr
    mov eax, (1 << 31) | (1 << 16) | (1 << 5) | (1 << 1) | (1 << 0) // PG, WP, NE, MP, PE
    mov cr0, eax
    lgdt [start_gdtr]
    push 8
    mov eax, offset start64
    push eax
    retf

    .code64
start64:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov fs, ax
    mov gs, ax
    lea rsp, [rip + {stack} + {stack_top}]
    mov edi, esi
    mov esi, ebp
    xor ebp, ebp
    call {kernel_main}
    ud2

    .section .rodata
    .balign 8
    .globl start_gdt
start_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
start_gdtr:
    .word 23
    .quad start_gdt
    .text
"#,
    stack = sym STACK,
    stack_top = const size_of::<Stack>(),
    pd = sym PD,
    pt = sym PT,
    pdpt = sym PDPT,
    pml4 = sym PML4,
    gigabytes = const GIGABYTES,
    kernel_main = sym crate::kernel_main,
);

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
    // SAFETY: only the MMUs of CPUs read these tables, and no other CPU has used the page yet.
    unsafe { (&raw mut PT.0[0][address as usize / 4096]).write_volatile(0) };
    tlb::flush(VirtAddr::new(address));
}
