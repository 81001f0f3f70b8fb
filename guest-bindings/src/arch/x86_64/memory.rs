//! Memory functions that compiled code calls and that a program without a C library must define.
//!
//! The functions are naked so that the compiler cannot turn a loop in them into a call of the same
//! function.

#![expect(unsafe_code, reason = "instructions and tables of the CPU")]

use core::arch::naked_asm;

/// Length from which the CPU's string instructions are faster, on CPUs with fast string operations
/// (SDM 7.3.9.3).
const STRING_MIN: usize = 1024;

/// # Safety
///
/// As in C: both ranges of `len` bytes must be valid and must not overlap.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn memcpy(destination: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    naked_asm!("jmp {move}", move = sym memmove)
}

/// # Safety
///
/// As in C: both ranges of `len` bytes must be valid.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn memmove(destination: *mut u8, source: *const u8, len: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 16",
        "jb 20f",
        "cmp rdx, 32",
        "ja 10f",
        // 16 to 32 bytes: load both ends before either is stored.
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + rdx - 16]",
        "movups [rdi], xmm0",
        "movups [rdi + rdx - 16], xmm1",
        "ret",
        // More than 32 bytes: check for a destination that begins inside the source.
        "10:",
        "mov rcx, rdi",
        "sub rcx, rsi",
        "cmp rcx, rdx",
        "jb 15f",
        "cmp rdx, {string_min}",
        "jae 14f",
        // Forwards, 32 bytes per iteration. The last 32 bytes are loaded first and stored at the
        // end.
        "movups xmm2, [rsi + rdx - 32]",
        "movups xmm3, [rsi + rdx - 16]",
        "lea r8, [rdi + rdx - 32]",
        "11:",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "add rsi, 32",
        "add rdi, 32",
        "cmp rdi, r8",
        "jb 11b",
        "movups [r8], xmm2",
        "movups [r8 + 16], xmm3",
        "ret",
        "14:",
        "mov rcx, rdx",
        "rep movsb",
        "ret",
        // Backwards, 32 bytes per iteration. The first 32 bytes are loaded first and stored at the
        // end.
        "15:",
        "movups xmm2, [rsi]",
        "movups xmm3, [rsi + 16]",
        "16:",
        "movups xmm0, [rsi + rdx - 16]",
        "movups xmm1, [rsi + rdx - 32]",
        "movups [rdi + rdx - 16], xmm0",
        "movups [rdi + rdx - 32], xmm1",
        "sub rdx, 32",
        "cmp rdx, 32",
        "ja 16b",
        "movups [rdi], xmm2",
        "movups [rdi + 16], xmm3",
        "ret",
        // Fewer than 16 bytes.
        "20:",
        "cmp edx, 8",
        "jb 21f",
        "mov rcx, [rsi]",
        "mov r8, [rsi + rdx - 8]",
        "mov [rdi], rcx",
        "mov [rdi + rdx - 8], r8",
        "ret",
        "21:",
        "cmp edx, 4",
        "jb 22f",
        "mov ecx, [rsi]",
        "mov r8d, [rsi + rdx - 4]",
        "mov [rdi], ecx",
        "mov [rdi + rdx - 4], r8d",
        "ret",
        "22:",
        "test edx, edx",
        "jz 23f",
        // One to three bytes: first, middle, last.
        "movzx ecx, byte ptr [rsi]",
        "mov r9d, edx",
        "shr r9d, 1",
        "movzx r8d, byte ptr [rsi + r9]",
        "movzx r10d, byte ptr [rsi + rdx - 1]",
        "mov [rdi], cl",
        "mov [rdi + r9], r8b",
        "mov [rdi + rdx - 1], r10b",
        "23:",
        "ret",
        string_min = const STRING_MIN,
    )
}

/// # Safety
///
/// As in C: the range of `len` bytes must be valid.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn memset(destination: *mut u8, value: i32, len: usize) -> *mut u8 {
    naked_asm!(
        "cmp rdx, {string_min}",
        "jae 14f",
        "mov r8, rdi",
        "movzx eax, sil",
        "mov rcx, 0x0101010101010101",
        "imul rax, rcx",
        "cmp rdx, 16",
        "jb 20f",
        "movq xmm0, rax",
        "punpcklqdq xmm0, xmm0",
        "cmp rdx, 64",
        "ja 12f",
        "lea rcx, [rdi + rdx - 16]",
        "11:",
        "movups [rdi], xmm0",
        "add rdi, 16",
        "cmp rdi, rcx",
        "jb 11b",
        "movups [rcx], xmm0",
        "mov rax, r8",
        "ret",
        // 64 bytes per iteration, then the last 64 bytes, which may overlap the previous ones.
        "12:",
        "lea rcx, [rdi + rdx - 64]",
        "13:",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm0",
        "movups [rdi + 32], xmm0",
        "movups [rdi + 48], xmm0",
        "add rdi, 64",
        "cmp rdi, rcx",
        "jb 13b",
        "movups [rcx], xmm0",
        "movups [rcx + 16], xmm0",
        "movups [rcx + 32], xmm0",
        "movups [rcx + 48], xmm0",
        "mov rax, r8",
        "ret",
        "14:",
        "mov r8, rdi",
        "mov eax, esi",
        "mov rcx, rdx",
        "rep stosb",
        "mov rax, r8",
        "ret",
        "20:",
        "cmp edx, 8",
        "jb 21f",
        "mov [rdi], rax",
        "mov [rdi + rdx - 8], rax",
        "mov rax, r8",
        "ret",
        "21:",
        "cmp edx, 4",
        "jb 22f",
        "mov [rdi], eax",
        "mov [rdi + rdx - 4], eax",
        "mov rax, r8",
        "ret",
        "22:",
        "test edx, edx",
        "jz 23f",
        "mov [rdi], al",
        "mov [rdi + rdx - 1], al",
        "shr edx, 1",
        "mov [rdi + rdx], al",
        "23:",
        "mov rax, r8",
        "ret",
        string_min = const STRING_MIN,
    )
}

/// # Safety
///
/// As in C: both ranges of `len` bytes must be valid.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    naked_asm!(
        "xor ecx, ecx",
        "sub rdx, 16",
        "jb 15f",
        "sub rdx, 48",
        "jb 19f",
        // Compare groups of 64 bytes until a group differs. The code below locates the difference.
        "18:",
        "movdqu xmm0, [rdi + rcx]",
        "movdqu xmm1, [rsi + rcx]",
        "movdqu xmm2, [rdi + rcx + 16]",
        "movdqu xmm3, [rsi + rcx + 16]",
        "movdqu xmm4, [rdi + rcx + 32]",
        "movdqu xmm5, [rsi + rcx + 32]",
        "movdqu xmm6, [rdi + rcx + 48]",
        "movdqu xmm7, [rsi + rcx + 48]",
        "pcmpeqb xmm0, xmm1",
        "pcmpeqb xmm2, xmm3",
        "pcmpeqb xmm4, xmm5",
        "pcmpeqb xmm6, xmm7",
        "pand xmm0, xmm2",
        "pand xmm4, xmm6",
        "pand xmm0, xmm4",
        "pmovmskb eax, xmm0",
        "cmp eax, 0xffff",
        "jne 19f",
        "add rcx, 64",
        "cmp rcx, rdx",
        "jbe 18b",
        "19:",
        "add rdx, 48",
        // Compare whole groups of 16 bytes until a group differs, then the last 16 bytes, which may
        // overlap the previous group.
        "11:",
        "cmp rcx, rdx",
        "cmova rcx, rdx",
        "movdqu xmm0, [rdi + rcx]",
        "movdqu xmm1, [rsi + rcx]",
        "pcmpeqb xmm0, xmm1",
        "pmovmskb eax, xmm0",
        "xor eax, 0xffff",
        "jnz 12f",
        "add rcx, 16",
        "lea r8, [rdx + 16]",
        "cmp rcx, r8",
        "jb 11b",
        "xor eax, eax",
        "ret",
        // The lowest set bit marks the first difference.
        "12:",
        "bsf eax, eax",
        "add rcx, rax",
        "movzx eax, byte ptr [rdi + rcx]",
        "movzx edx, byte ptr [rsi + rcx]",
        "sub eax, edx",
        "ret",
        // Fewer than 16 bytes: byte by byte.
        "15:",
        "add rdx, 16",
        "16:",
        "cmp rcx, rdx",
        "jae 17f",
        "movzx eax, byte ptr [rdi + rcx]",
        "movzx r8d, byte ptr [rsi + rcx]",
        "inc rcx",
        "sub eax, r8d",
        "jz 16b",
        "ret",
        "17:",
        "xor eax, eax",
        "ret",
    )
}

/// # Safety
///
/// As [`memcmp`].
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    naked_asm!("jmp {compare}", compare = sym memcmp)
}

/// # Safety
///
/// As in C: `string` must end with a NUL.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn strlen(string: *const u8) -> usize {
    naked_asm!(
        "pxor xmm1, xmm1",
        // Aligned groups never extend to a page that the string does not occupy.
        "mov rax, rdi",
        "and rax, -16",
        "movdqa xmm0, [rax]",
        "pcmpeqb xmm0, xmm1",
        "pmovmskb edx, xmm0",
        "mov ecx, edi",
        "and ecx, 15",
        "shr edx, cl",
        "shl edx, cl",
        "test edx, edx",
        "jnz 12f",
        "11:",
        "add rax, 16",
        "movdqa xmm0, [rax]",
        "pcmpeqb xmm0, xmm1",
        "pmovmskb edx, xmm0",
        "test edx, edx",
        "jz 11b",
        "12:",
        "bsf edx, edx",
        "add rax, rdx",
        "sub rax, rdi",
        "ret",
    )
}
