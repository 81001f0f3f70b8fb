//! Memory functions that compiled code calls and that a program without a C library must define.
//!
//! The functions are naked so that the compiler cannot turn a loop in them into a call of the same
//! function. Unaligned data is accessed directly, because guest memory is normal memory.

#![expect(unsafe_code, reason = "instructions and tables of the CPU")]

use core::arch::naked_asm;

/// # Safety
///
/// As in C: both ranges of `len` bytes must be valid and must not overlap.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn memcpy(destination: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    naked_asm!("b {move}", move = sym memmove)
}

/// # Safety
///
/// As in C: both ranges of `len` bytes must be valid.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn memmove(destination: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    naked_asm!(
        // End addresses of source and destination.
        "add x3, x1, x2",
        "add x4, x0, x2",
        "cmp x2, #16",
        "b.lo 20f",
        "cmp x2, #32",
        "b.hi 10f",
        // 16 to 32 bytes: load both ends before either is stored.
        "ldr q0, [x1]",
        "ldur q1, [x3, #-16]",
        "str q0, [x0]",
        "stur q1, [x4, #-16]",
        "ret",
        // More than 32 bytes: check for a destination that begins inside the source.
        "10:",
        "sub x5, x0, x1",
        "cmp x5, x2",
        "b.lo 15f",
        // Forwards, 32 bytes per iteration. The last 32 bytes are loaded first and stored at the
        // end.
        "ldp q2, q3, [x3, #-32]",
        "sub x4, x4, #32",
        "mov x5, x0",
        "11:",
        "ldp q0, q1, [x1], #32",
        "stp q0, q1, [x5], #32",
        "cmp x5, x4",
        "b.lo 11b",
        "stp q2, q3, [x4]",
        "ret",
        // Backwards, 32 bytes per iteration. The first 32 bytes are loaded first and stored at the
        // end.
        "15:",
        "ldp q2, q3, [x1]",
        "add x5, x0, #32",
        "16:",
        "ldp q0, q1, [x3, #-32]!",
        "stp q0, q1, [x4, #-32]!",
        "cmp x4, x5",
        "b.hi 16b",
        "stp q2, q3, [x0]",
        "ret",
        // Fewer than 16 bytes.
        "20:",
        "tbz x2, #3, 21f",
        "ldr x5, [x1]",
        "ldur x6, [x3, #-8]",
        "str x5, [x0]",
        "stur x6, [x4, #-8]",
        "ret",
        "21:",
        "tbz x2, #2, 22f",
        "ldr w5, [x1]",
        "ldur w6, [x3, #-4]",
        "str w5, [x0]",
        "stur w6, [x4, #-4]",
        "ret",
        "22:",
        "cbz x2, 23f",
        // One to three bytes: first, middle, last.
        "lsr x8, x2, #1",
        "ldrb w5, [x1]",
        "ldrb w6, [x1, x8]",
        "ldurb w7, [x3, #-1]",
        "strb w5, [x0]",
        "strb w6, [x0, x8]",
        "sturb w7, [x4, #-1]",
        "23:",
        "ret",
    )
}

/// # Safety
///
/// As in C: the range of `len` bytes must be valid.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn memset(destination: *mut u8, value: i32, len: usize) -> *mut u8 {
    naked_asm!(
        "dup v0.16b, w1",
        // End address.
        "add x4, x0, x2",
        "mov x3, x0",
        "cmp x2, #16",
        "b.lo 20f",
        "cmp x2, #64",
        "b.hi 12f",
        "sub x4, x4, #16",
        "11:",
        "str q0, [x3], #16",
        "cmp x3, x4",
        "b.lo 11b",
        "str q0, [x4]",
        "ret",
        // 64 bytes per iteration, then the last 64 bytes, which may overlap the previous ones.
        "12:",
        "sub x4, x4, #64",
        "13:",
        "stp q0, q0, [x3], #32",
        "stp q0, q0, [x3], #32",
        "cmp x3, x4",
        "b.lo 13b",
        "stp q0, q0, [x4]",
        "stp q0, q0, [x4, #32]",
        "ret",
        "20:",
        "fmov x5, d0",
        "tbz x2, #3, 21f",
        "str x5, [x0]",
        "stur x5, [x4, #-8]",
        "ret",
        "21:",
        "tbz x2, #2, 22f",
        "str w5, [x0]",
        "stur w5, [x4, #-4]",
        "ret",
        "22:",
        "cbz x2, 23f",
        "lsr x8, x2, #1",
        "strb w5, [x0]",
        "strb w5, [x0, x8]",
        "sturb w5, [x4, #-1]",
        "23:",
        "ret",
    )
}

/// # Safety
///
/// As in C: both ranges of `len` bytes must be valid.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    naked_asm!(
        "subs x2, x2, #16",
        "b.lo 15f",
        // Compare groups of 16 bytes until a group differs, then the last 16 bytes, which may
        // overlap the previous group.
        "add x9, x0, x2",
        "add x10, x1, x2",
        "11:",
        "cmp x0, x9",
        "csel x0, x9, x0, hi",
        "csel x1, x10, x1, hi",
        "ldp x3, x4, [x0]",
        "ldp x5, x6, [x1]",
        "cmp x3, x5",
        "b.ne 12f",
        "mov x3, x4",
        "mov x5, x6",
        "cmp x3, x5",
        "b.ne 12f",
        "cmp x0, x9",
        "add x0, x0, #16",
        "add x1, x1, #16",
        "b.lo 11b",
        "mov w0, wzr",
        "ret",
        // The first differing byte is the most significant.
        "12:",
        "rev x3, x3",
        "rev x5, x5",
        "cmp x3, x5",
        "cset w0, ne",
        "cneg w0, w0, lo",
        "ret",
        // Fewer than 16 bytes: byte by byte.
        "15:",
        "add x2, x2, #16",
        "16:",
        "cbz x2, 17f",
        "sub x2, x2, #1",
        "ldrb w3, [x0], #1",
        "ldrb w4, [x1], #1",
        "subs w3, w3, w4",
        "b.eq 16b",
        "mov w0, w3",
        "ret",
        "17:",
        "mov w0, wzr",
        "ret",
    )
}

/// # Safety
///
/// As [`memcmp`].
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    naked_asm!("b {compare}", compare = sym memcmp)
}

/// # Safety
///
/// As in C: `string` must end with a NUL.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn strlen(string: *const u8) -> usize {
    naked_asm!(
        // Aligned groups never extend to a page that the string does not occupy. Each byte is
        // represented by four bits.
        "bic x1, x0, #15",
        "ldr q0, [x1]",
        "cmeq v0.16b, v0.16b, #0",
        "shrn v0.8b, v0.8h, #4",
        "fmov x2, d0",
        // Discard the bytes before the string.
        "lsl x3, x0, #2",
        "lsr x2, x2, x3",
        "mov x4, x0",
        "cbnz x2, 12f",
        "11:",
        "ldr q0, [x1, #16]!",
        "cmeq v0.16b, v0.16b, #0",
        "shrn v0.8b, v0.8h, #4",
        "fmov x2, d0",
        "cbz x2, 11b",
        "mov x4, x1",
        // The lowest set bit marks the NUL, counted from x4.
        "12:",
        "rbit x2, x2",
        "clz x2, x2",
        "sub x4, x4, x0",
        "add x0, x4, x2, lsr #2",
        "ret",
    )
}
