//! Header of the file, and the first instructions.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use core::arch::global_asm;

const STACK_SIZE: usize = 64 * 1024;
#[repr(C, align(16))]
struct Stack([u8; STACK_SIZE]);
static mut STACK: Stack = Stack([0; STACK_SIZE]);

// The kernel reads the entry point at byte 0x1a, and provides no stack (`usermode_bootstrap`,
// `src/syscall/process.rs`). Redox's own boot loader checks the magic.
global_asm!(
    r#"
    .section .header, "a"
    .ascii "RedoxFtw"
    .fill 0x12, 1, 0
    .quad start

    .section .text.start, "ax"
    .globl start
start:
    lea rsp, [rip + {stack} + {size}]
    xor ebp, ebp
    call {main}
    ud2
    .text
"#,
    stack = sym STACK,
    size = const STACK_SIZE,
    main = sym crate::main,
);
