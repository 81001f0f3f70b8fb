//! The instructions that probes run.

/// Defines a function that returns the machine code of the lines given.
macro_rules! guest_code {
    ($($(#[$doc:meta])* $name:ident: $($line:literal)+;)+) => {$(
        core::arch::global_asm!(
            ".pushsection .rodata.probes, \"a\"",
            concat!("probe_", stringify!($name), "_start:"),
            $($line,)+
            concat!("probe_", stringify!($name), "_end:"),
            ".popsection",
        );

        $(#[$doc])*
        pub(crate) fn $name() -> &'static [u8] {
            let (start, end): (*const u8, *const u8);
            // SAFETY: two addresses are loaded, nothing else happens.
            unsafe {
                core::arch::asm!(
                    concat!("lea {}, [rip + probe_", stringify!($name), "_start]"),
                    concat!("lea {}, [rip + probe_", stringify!($name), "_end]"),
                    out(reg) start, out(reg) end,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            // SAFETY: the labels enclose read-only data of this program.
            unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
        }
    )+};
}

guest_code! {
    /// A hypercall, over and over.
    hypercall:
        "2: out dx, eax"
        "jmp 2b";

    /// A hypercall of each width and direction, and each string form.
    ports:
        "mov edx, 0x501"
        "mov eax, 0x11223344"
        "out dx, eax"
        "out dx, ax"
        "out dx, al"
        "out 0x80, eax"
        "in eax, dx"
        "in al, 0x70"
        "mov esi, 0x180000"
        "mov edi, 0x180000"
        "outsd"
        "insb"
        "hlt";

    /// Spins.
    spin:
        "2: inc rax"
        "jmp 2b";

    /// Increments a number in memory, for ever: RDI points to it.
    count:
        "2: inc qword ptr [rdi]"
        "jmp 2b";

    /// Reads, writes and calls what RDI points to, a hypercall after each.
    touch:
        "mov dx, 0x501"
        "mov rax, [rdi]"
        "out dx, eax"
        "mov [rdi], rax"
        "out dx, eax"
        "call rdi"
        "out dx, eax"
        "hlt";

    /// Reads a byte every RSI bytes from RDI up to RCX.
    scan:
        "2: mov al, [rdi]"
        "add rdi, rsi"
        "cmp rdi, rcx"
        "jb 2b"
        "hlt";

    /// Looks for the word RAX from RDI up to RCX words further on; RBX counts how often it is there.
    search:
        "xor ebx, ebx"
        "2: cmp [rdi], rax"
        "jne 3f"
        "inc rbx"
        "3: add rdi, 8"
        "dec rcx"
        "jnz 2b"
        "hlt";

    /// No handler for its exception.
    triple_fault:
        "ud2";

    /// CPUID leaf EAX, subleaf ECX.
    cpuid:
        "cpuid"
        "hlt";

    /// Reads MSR ECX.
    rdmsr:
        "rdmsr"
        "hlt";

    /// Writes EDX:EAX to MSR ECX, and reads it back.
    wrmsr:
        "wrmsr"
        "xor eax, eax"
        "xor edx, edx"
        "rdmsr"
        "hlt";

    /// Writes CR0, CR4, XCR0.
    set_cr0:
        "mov cr0, rax"
        "hlt";
    set_cr4:
        "mov cr4, rax"
        "hlt";
    /// Switches OSXSAVE on and writes XCR0.
    set_xcr0:
        "mov rbx, cr4"
        "or rbx, 1 << 18"
        "mov cr4, rbx"
        "xor ecx, ecx"
        "xor edx, edx"
        "xsetbv"
        "xor eax, eax"
        "xgetbv"
        "hlt";

    /// Instructions that only a hypervisor executes.
    vmrun:
        "vmrun"
        "hlt";
    vmmcall:
        "vmmcall"
        "hlt";
    vmxon:
        "vmxon [rdi]"
        "hlt";
    vmcall:
        "vmcall"
        "hlt";
    invd:
        "invd"
        "hlt";
    monitor:
        "xor ecx, ecx"
        "xor edx, edx"
        "mov rax, rdi"
        "monitor"
        "hlt";

    /// Loads the registers that belong to a guest from the words at RDI, makes a hypercall, and stores them at RSI: XMM0 to
    /// XMM15, MXCSR, DR0 to DR3, CR2, FS base, GS base, KERNEL_GS base; over and over.
    state:
        "2:"
        "movdqu xmm0, [rdi]"
        "movdqu xmm1, [rdi + 0x10]"
        "movdqu xmm2, [rdi + 0x20]"
        "movdqu xmm3, [rdi + 0x30]"
        "movdqu xmm4, [rdi + 0x40]"
        "movdqu xmm5, [rdi + 0x50]"
        "movdqu xmm6, [rdi + 0x60]"
        "movdqu xmm7, [rdi + 0x70]"
        "movdqu xmm8, [rdi + 0x80]"
        "movdqu xmm9, [rdi + 0x90]"
        "movdqu xmm10, [rdi + 0xa0]"
        "movdqu xmm11, [rdi + 0xb0]"
        "movdqu xmm12, [rdi + 0xc0]"
        "movdqu xmm13, [rdi + 0xd0]"
        "movdqu xmm14, [rdi + 0xe0]"
        "movdqu xmm15, [rdi + 0xf0]"
        "mov rax, [rdi + 0x100]"
        "mov dr0, rax"
        "mov rax, [rdi + 0x108]"
        "mov dr1, rax"
        "mov rax, [rdi + 0x110]"
        "mov dr2, rax"
        "mov rax, [rdi + 0x118]"
        "mov dr3, rax"
        "mov rax, [rdi + 0x120]"
        "mov cr2, rax"
        "mov ecx, 0xc0000100"
        "mov eax, [rdi + 0x128]"
        "mov edx, [rdi + 0x12c]"
        "wrmsr"
        "inc ecx"
        "mov eax, [rdi + 0x130]"
        "mov edx, [rdi + 0x134]"
        "wrmsr"
        "inc ecx"
        "mov eax, [rdi + 0x138]"
        "mov edx, [rdi + 0x13c]"
        "wrmsr"
        "ldmxcsr [rdi + 0x140]"
        "mov rbx, [rdi + 0x148]"
        "mov edx, 0x501"
        "out dx, eax"
        "movdqu [rsi], xmm0"
        "movdqu [rsi + 0x10], xmm1"
        "movdqu [rsi + 0x20], xmm2"
        "movdqu [rsi + 0x30], xmm3"
        "movdqu [rsi + 0x40], xmm4"
        "movdqu [rsi + 0x50], xmm5"
        "movdqu [rsi + 0x60], xmm6"
        "movdqu [rsi + 0x70], xmm7"
        "movdqu [rsi + 0x80], xmm8"
        "movdqu [rsi + 0x90], xmm9"
        "movdqu [rsi + 0xa0], xmm10"
        "movdqu [rsi + 0xb0], xmm11"
        "movdqu [rsi + 0xc0], xmm12"
        "movdqu [rsi + 0xd0], xmm13"
        "movdqu [rsi + 0xe0], xmm14"
        "movdqu [rsi + 0xf0], xmm15"
        "mov rax, dr0"
        "mov [rsi + 0x100], rax"
        "mov rax, dr1"
        "mov [rsi + 0x108], rax"
        "mov rax, dr2"
        "mov [rsi + 0x110], rax"
        "mov rax, dr3"
        "mov [rsi + 0x118], rax"
        "mov rax, cr2"
        "mov [rsi + 0x120], rax"
        "mov ecx, 0xc0000100"
        "rdmsr"
        "mov [rsi + 0x128], eax"
        "mov [rsi + 0x12c], edx"
        "inc ecx"
        "rdmsr"
        "mov [rsi + 0x130], eax"
        "mov [rsi + 0x134], edx"
        "inc ecx"
        "rdmsr"
        "mov [rsi + 0x138], eax"
        "mov [rsi + 0x13c], edx"
        "stmxcsr [rsi + 0x140]"
        "mov [rsi + 0x148], rbx"
        "out dx, eax"
        "jmp 2b";

    /// Switches AVX on, loads YMM0 to YMM3 from the words at RDI, makes a hypercall, and stores them at RSI.
    avx:
        "mov rbx, cr4"
        "or rbx, 1 << 18"
        "mov cr4, rbx"
        "xor ecx, ecx"
        "xor edx, edx"
        "mov eax, 7"
        "xsetbv"
        "vmovdqu ymm0, [rdi]"
        "vmovdqu ymm1, [rdi + 0x20]"
        "vmovdqu ymm2, [rdi + 0x40]"
        "vmovdqu ymm3, [rdi + 0x60]"
        "mov edx, 0x501"
        "out dx, eax"
        "vmovdqu [rsi], ymm0"
        "vmovdqu [rsi + 0x20], ymm1"
        "vmovdqu [rsi + 0x40], ymm2"
        "vmovdqu [rsi + 0x60], ymm3"
        "hlt";
}
