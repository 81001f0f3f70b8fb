//! Entry code: from the boot loader's 32-bit protected mode to [`load`](crate::load) in long mode.
//!
//! One entry point serves both protocols: PVH (EBX = start info) and Multiboot2 (EAX = magic, EBX =
//! information).
//!
//! The page tables are the ones that the kernel expects at its entry. They map the first
//! [`GIGABYTES`] of physical memory at their own address and at `PHYS_OFFSET`, by 2 MiB pages, and
//! the kernel's file 2 GiB below the end of the address space.

use core::arch::global_asm;

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

hvt_boot::headers!();

global_asm!(
    r#"
    .section .text.start, "ax"
    .code32
    .globl start32
start32:
    cli
    cld
    mov esp, offset {stack} + {stack_size}
    mov esi, eax                // kept for load
    mov ebp, ebx

    // PD: 2 MiB pages, present and writable; addresses from 4 GiB on need the upper half of an
    // entry.
    mov edi, offset {pd}
    xor ecx, ecx
2:  mov eax, ecx
    shl eax, 21
    or  eax, 0x83
    mov [edi], eax
    mov eax, ecx
    shr eax, 11
    mov [edi + 4], eax
    add edi, 8
    inc ecx
    cmp ecx, {gigabytes} * 512
    jb  2b

    // PDPT and PML4.
    mov edi, offset {pdpt}
    mov eax, offset {pd} + 3
    mov ecx, {gigabytes}
3:  mov [edi], eax
    add edi, 8
    add eax, 0x1000
    dec ecx
    jnz 3b
    mov eax, offset {pdpt} + 3
    mov [{pml4}], eax
    mov [{pml4} + {phys_offset} * 8], eax

    mov eax, cr4
    or  eax, (1 << 4) | (1 << 5) | (1 << 7) | (1 << 9)              // PSE, PAE, PGE, OSFXSR
    mov cr4, eax
    mov eax, offset {pml4}
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or  eax, (1 << 8) | (1 << 11)                                   // EFER: LME, NXE
    wrmsr
    mov eax, (1 << 31) | (1 << 16) | (1 << 5) | (1 << 4) | (1 << 1) | (1 << 0) // PG, WP, NE, ET, MP, PE
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
    xor eax, eax
    mov fs, ax
    mov gs, ax
    lea rsp, [rip + {stack} + {stack_size}]
    mov edi, esi
    mov esi, ebp
    xor ebp, ebp
    call {load}
    ud2

    .section .rodata
    .balign 8
start_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
start_gdtr:
    .word 23
    .quad start_gdt
    .text
"#,
    stack = sym STACK,
    stack_size = const STACK_SIZE,
    pd = sym PD,
    pdpt = sym PDPT,
    pml4 = sym PML4,
    gigabytes = const GIGABYTES,
    phys_offset = const PHYS_OFFSET,
    load = sym crate::load,
);

/// Fills the last-level tables of the kernel's addresses with `fill`, and activates them.
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
        // 2 GiB below the end of the address space.
        KERNEL_PDPT.0[ENTRIES - 2] = &raw const KERNEL_PD as u64 | PRESENT_WRITABLE;
        (&raw mut PML4.0[ENTRIES - 1]).write_volatile(&raw const KERNEL_PDPT as u64 | PRESENT_WRITABLE);
    }
    // The entry was not present, so the CPU cannot have cached a translation of it (SDM 4.10.2.3).
    Ok(())
}
