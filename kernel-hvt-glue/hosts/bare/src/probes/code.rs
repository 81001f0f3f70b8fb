//! Guest code of the probes.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

/// Defines a function that returns the machine code of the given lines.
macro_rules! guest_code {
    ($($(#[$doc:meta])* $name:ident: $($line:literal)+;)+) => {$(
        core::arch::global_asm!(
            ".pushsection .rodata.probes, \"a\"",
            concat!(".globl probe_", stringify!($name), "_start"),
            concat!(".globl probe_", stringify!($name), "_end"),
            concat!("probe_", stringify!($name), "_start:"),
            $($line,)+
            concat!("probe_", stringify!($name), "_end:"),
            ".popsection",
        );

        $(#[$doc])*
        pub(crate) fn $name() -> &'static [u8] {
            let (start, end): (*const u8, *const u8);
            // SAFETY: the code loads two addresses and has no other effect.
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
    /// Endless loop of hypercalls.
    hypercall:
        "2: out dx, eax"
        "jmp 2b";

    /// One hypercall of each width, direction and string form.
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

    /// Endless loop without exits.
    spin:
        "2: inc rax"
        "jmp 2b";

    /// Endless loop that increments the number at RDI.
    count:
        "2: inc qword ptr [rdi]"
        "jmp 2b";

    /// Reads, writes and calls the address in RDI, each followed by a hypercall.
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

    /// Searches RCX words starting at RDI for the word in RAX; RBX counts the matches.
    search:
        "xor ebx, ebx"
        "2: cmp [rdi], rax"
        "jne 3f"
        "inc rbx"
        "3: add rdi, 8"
        "dec rcx"
        "jnz 2b"
        "hlt";

    /// Exception without a handler.
    triple_fault:
        "ud2";

    /// Executes CPUID with leaf EAX, subleaf ECX.
    cpuid:
        "cpuid"
        "hlt";

    /// Reads the MSR with number ECX.
    rdmsr:
        "rdmsr"
        "hlt";

    /// Writes EDX:EAX to the MSR with number ECX, and reads it back.
    wrmsr:
        "wrmsr"
        "xor eax, eax"
        "xor edx, edx"
        "rdmsr"
        "hlt";

    /// Writes RAX to CR0 or CR4.
    set_cr0:
        "mov cr0, rax"
        "hlt";
    set_cr4:
        "mov cr4, rax"
        "hlt";
    /// Sets OSXSAVE, writes XCR0, makes a hypercall, and reads XCR0 back.
    set_xcr0:
        "mov rbx, cr4"
        "or rbx, 1 << 18"
        "mov cr4, rbx"
        "xor ecx, ecx"
        "xor edx, edx"
        "xsetbv"
        "mov dx, 0x501"
        "out dx, eax"
        "xor eax, eax"
        "xgetbv"
        "hlt";

    /// Instructions for hypervisors.
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
    rdpid:
        "rdpid rax"
        "hlt";
    /// Sets OSXSAVE, sets XCR0 to x87 and SSE, and saves all components that XSAVES supports to
    /// RDI.
    xsaves:
        "mov rbx, cr4"
        "or rbx, 1 << 18"
        "mov cr4, rbx"
        "xor ecx, ecx"
        "xor edx, edx"
        "mov eax, 3"
        "xsetbv"
        "mov eax, -1"
        "mov edx, -1"
        "xsaves64 [rdi]"
        "hlt";
    monitor:
        "xor ecx, ecx"
        "xor edx, edx"
        "mov rax, rdi"
        "monitor"
        "hlt";

    /// Endless loop over the registers that belong to a guest: loads them from the words at RDI,
    /// makes a hypercall, stores them at RSI and makes another hypercall. The registers are XMM0 to
    /// XMM15, DR0 to DR3, CR2, the bases of FS and GS, KERNEL_GS_BASE, MXCSR, RBX.
    state:
        "2:"
        ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15"
        "movdqu xmm\\n, [rdi + 16 * \\n]"
        ".endr"
        ".irp n, 0, 1, 2, 3"
        "mov rax, [rdi + 0x100 + 8 * \\n]"
        "mov dr\\n, rax"
        ".endr"
        "mov rax, [rdi + 0x120]"
        "mov cr2, rax"
        ".set at, 0x128"
        ".irp n, 0xc0000100, 0xc0000101, 0xc0000102"
        "mov ecx, \\n"
        "mov eax, [rdi + at]"
        "mov edx, [rdi + at + 4]"
        "wrmsr"
        ".set at, at + 8"
        ".endr"
        "ldmxcsr [rdi + 0x140]"
        "mov rbx, [rdi + 0x148]"
        "mov edx, 0x501"
        "out dx, eax"
        ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15"
        "movdqu [rsi + 16 * \\n], xmm\\n"
        ".endr"
        ".irp n, 0, 1, 2, 3"
        "mov rax, dr\\n"
        "mov [rsi + 0x100 + 8 * \\n], rax"
        ".endr"
        "mov rax, cr2"
        "mov [rsi + 0x120], rax"
        ".set at, 0x128"
        ".irp n, 0xc0000100, 0xc0000101, 0xc0000102"
        "mov ecx, \\n"
        "rdmsr"
        "mov [rsi + at], eax"
        "mov [rsi + at + 4], edx"
        ".set at, at + 8"
        ".endr"
        "stmxcsr [rsi + 0x140]"
        "mov [rsi + 0x148], rbx"
        "mov edx, 0x501"
        "out dx, eax"
        "jmp 2b";

    /// Enables AVX, loads YMM0 to YMM3 from the words at RDI, makes a hypercall, and stores them at
    /// RSI.
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
