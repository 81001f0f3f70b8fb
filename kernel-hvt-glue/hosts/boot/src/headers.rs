//! Headers that boot loaders require in a program's file.

/// Adds a Multiboot2 header and a PVH note to a program. Either loader enters the program in 32-bit
/// protected mode, without paging. PVH enters at the symbol `start32`, with EBX = start info.
/// Multiboot2 enters at the file's entry point, which must be the same address, with EAX = magic
/// number and EBX = information. [`read`](crate::read) takes the two registers.
///
/// The linker script must keep the sections `.multiboot2`, within the first 32 KiB of the file, and
/// `.note.pvh`, in a `PT_NOTE` segment.
#[macro_export]
macro_rules! headers {
    () => {
        ::core::arch::global_asm!(
            r#"
    .section .multiboot2, "a"
    .balign 8
multiboot2_header:
    .long {magic}
    .long 0                     // i386, protected mode
    .long multiboot2_header_end - multiboot2_header
    .long -({magic} + multiboot2_header_end - multiboot2_header)
    .word 6, 0                  // modules at page boundaries
    .long 8
    .word 0, 0                  // end
    .long 8
multiboot2_header_end:

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18              // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad start32
    .text
"#,
            // Magic number of the header (Multiboot2 Specification, 3.1.1).
            magic = const 0xe852_50d6_u32,
        );
    };
}
