//! The functions that compiled code calls. On a host target the compiler expects a C library to define them.

/// Defines `memcpy`, `memmove`, `memset` and `memcmp`, for a program that is linked without a C library. Only a program
/// may do so, once: tests on a host have them from the C library.
///
/// Written in assembly: in Rust the compiler would turn their loops into calls of themselves.
#[macro_export]
macro_rules! memory_functions {
    () => {
        /// C's `memcpy`.
        ///
        /// # Safety
        /// As in C: both ranges are valid and do not overlap.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn memcpy(destination: *mut u8, source: *const u8, len: usize) -> *mut u8 {
            core::arch::naked_asm!(
                "mov rax, rdi",
                "mov rcx, rdx",
                "shr rcx, 3",
                "rep movsq",
                "mov ecx, edx",
                "and ecx, 7",
                "rep movsb",
                "ret"
            )
        }

        /// C's `memmove`.
        ///
        /// # Safety
        /// As in C: both ranges are valid.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn memmove(destination: *mut u8, source: *const u8, len: usize) -> *mut u8 {
            core::arch::naked_asm!(
                "mov rax, rdi",
                "sub rax, rsi",
                "cmp rax, rdx",
                "jae {memcpy}", // the destination does not begin inside the source
                "mov rax, rdi",
                "mov rcx, rdx",
                "lea rdi, [rdi + rdx - 1]",
                "lea rsi, [rsi + rdx - 1]",
                "std",
                "rep movsb",
                "cld",
                "ret",
                memcpy = sym memcpy,
            )
        }

        /// C's `memset`.
        ///
        /// # Safety
        /// As in C: the range is valid.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn memset(destination: *mut u8, byte: i32, len: usize) -> *mut u8 {
            core::arch::naked_asm!(
                "mov r8, rdi",
                "movzx eax, sil",
                "mov rcx, 0x0101010101010101",
                "imul rax, rcx",
                "mov rcx, rdx",
                "shr rcx, 3",
                "rep stosq",
                "mov ecx, edx",
                "and ecx, 7",
                "rep stosb",
                "mov rax, r8",
                "ret"
            )
        }

        /// C's `memcmp`.
        ///
        /// # Safety
        /// As in C: both ranges are valid.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
            core::arch::naked_asm!(
                "mov rcx, rdx",
                "xor eax, eax",
                "cmp rcx, rcx", // equal, should there be nothing to compare
                "repe cmpsb",
                "je 2f",
                "movzx eax, byte ptr [rdi - 1]",
                "movzx ecx, byte ptr [rsi - 1]",
                "sub eax, ecx",
                "2: ret"
            )
        }

        /// C's `bcmp`.
        ///
        /// # Safety
        /// As in C: both ranges are valid.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
            core::arch::naked_asm!("jmp {memcmp}", memcmp = sym memcmp)
        }

        /// Named by the precompiled `core` and `alloc`, which can unwind. This kernel cannot: its panics end it.
        #[unsafe(no_mangle)]
        extern "C" fn rust_eh_personality() {}

        /// See [`rust_eh_personality`].
        #[unsafe(no_mangle)]
        extern "C" fn _Unwind_Resume() -> ! {
            unreachable!("nothing unwinds")
        }
    };
}
