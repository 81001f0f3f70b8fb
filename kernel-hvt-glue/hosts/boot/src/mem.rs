//! Functions that compiled code calls. On a host target the compiler expects a C library to define
//! them.

/// Defines `memcpy`, `memmove`, `memset` and `memcmp` for a program without a C library. Only a
/// program may use this macro, and only once; tests on a host use the C library's functions.
///
/// The functions are in assembly, because the compiler would replace loops in Rust by calls to
/// these functions.
#[macro_export]
macro_rules! memory_functions {
    () => {
        /// C's `memcpy`.
        ///
        /// # Safety
        /// As in C: both ranges must be valid and must not overlap.
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
        /// As in C: both ranges must be valid.
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
        /// As in C: the range must be valid.
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
        /// As in C: both ranges must be valid.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
            core::arch::naked_asm!(
                "mov rcx, rdx",
                "xor eax, eax",
                "cmp rcx, rcx", // sets ZF: equal if the length is 0
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
        /// As in C: both ranges must be valid.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
            core::arch::naked_asm!("jmp {memcmp}", memcmp = sym memcmp)
        }

        /// Referenced by the precompiled `core` and `alloc`, which can unwind. This kernel does not
        /// unwind: a panic ends it.
        #[unsafe(no_mangle)]
        extern "C" fn rust_eh_personality() {}

        /// See [`rust_eh_personality`].
        #[unsafe(no_mangle)]
        extern "C" fn _Unwind_Resume() -> ! {
            unreachable!("nothing unwinds")
        }
    };
}
