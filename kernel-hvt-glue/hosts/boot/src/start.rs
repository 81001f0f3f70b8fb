//! Entry code, from the boot loader's 32-bit protected mode to long mode.

/// CR4 at the entry of a program and of its other CPUs (SDM 2.5): PAE, PGE, OSFXSR, OSXMMEXCPT.
pub const CR4: u32 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10;

/// Bits of EFER at the entry of a program and of its other CPUs (SDM 2.2.1): LME, NXE.
pub const EFER: u32 = 1 << 8 | 1 << 11;

/// CR0 at the entry of a program and of its other CPUs (SDM 2.5): PG, WP, NE, ET, MP, PE.
pub const CR0: u32 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1 << 0;

/// Instructions that enable paging and long mode (SDM volume 3, "Initializing IA-32e Mode"), in 16-bit
/// or 32-bit code. The operands are `pml4`, and `cr4`, `efer` and `cr0` with the constants [`CR4`],
/// [`EFER`] and [`CR0`]. EAX, ECX and EDX are overwritten.
#[macro_export]
macro_rules! enter_long_mode {
    () => {
        r#"
    mov eax, {cr4}
    mov cr4, eax
    mov eax, offset {pml4}
    mov cr3, eax
    mov ecx, 0xc0000080         // EFER
    rdmsr
    or  eax, {efer}
    wrmsr
    mov eax, {cr0}
    mov cr0, eax
"#
    };
}

/// Instructions that load the segment registers in 64-bit code, with the data segment of
/// `start_gdt`. EAX is 0 afterwards.
#[macro_export]
macro_rules! load_segments {
    () => {
        r#"
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
"#
    };
}

/// Defines the symbol `start32`, the entry point that [`headers!`](crate::headers) requires, and
/// adds these headers.
///
/// The code maps the first `gigabytes` GiB of memory at their physical addresses by 2 MiB pages,
/// and calls `main(EAX, EBX)` in long mode on `stack`, with the two registers of the boot loader
/// and with interrupts off. `pml4` and `pdpt` are zeroed page tables, `pd` is an array of
/// `gigabytes` page tables, and `stack` has `stack_size` bytes, a multiple of 16. All of them are
/// `static mut` items. The symbol `start_gdt` is a GDT with a code segment (8) and a data segment
/// (16).
#[macro_export]
macro_rules! start {
    (
        stack: $stack:path,
        stack_size: $stack_size:expr,
        pml4: $pml4:path,
        pdpt: $pdpt:path,
        pd: $pd:path,
        gigabytes: $gigabytes:expr,
        main: $main:path $(,)?
    ) => {
        $crate::headers!();

        ::core::arch::global_asm!(
            r#"
    .section .text.start, "ax"
    .code32
    .globl start32
start32:
    cli
    cld
    mov esp, offset {stack} + {stack_size}
    mov esi, eax                // kept for the call of main
    mov ebp, ebx

    // PD: 2 MiB pages, present and writable. The upper half of an entry has the bits of addresses
    // from 4 GiB on.
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

"#,
            $crate::enter_long_mode!(),
            r#"
    lgdt [start_gdtr]
    push 8
    mov eax, offset start64
    push eax
    retf

    .code64
start64:
"#,
            $crate::load_segments!(),
            r#"
    lea rsp, [rip + {stack} + {stack_size}]
    mov edi, esi
    mov esi, ebp
    xor ebp, ebp
    call {main}
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
            stack = sym $stack,
            stack_size = const $stack_size,
            pml4 = sym $pml4,
            pdpt = sym $pdpt,
            pd = sym $pd,
            gigabytes = const $gigabytes,
            main = sym $main,
            cr4 = const $crate::CR4,
            efer = const $crate::EFER,
            cr0 = const $crate::CR0,
        );
    };
}
