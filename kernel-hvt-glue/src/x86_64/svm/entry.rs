//! Entry to and exit from the guest (APM volume 2, 15.5 and 15.6).

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use core::arch::{asm, naked_asm};

use x86::msr::IA32_TSC_AUX;

use crate::x86_64::{
    context::{
        Context, GUEST_USES_XCR0, GUEST_XCR0, HOST_TSC_AUX, HOST_VMCB, HOST_XCR0, HOST_XSS, MEASURES, VERW_SELECTOR,
        VMCB, general_registers, gpr,
    },
    cpu::XSS,
    mitigations::{IBPB, Measures, PRED_CMD, barrier_assembly, fill_return_stack},
};

/// Saves the host state that VMRUN does not save: FS, GS, TR, LDTR, KERNEL_GS_BASE, and the MSRs of
/// SYSCALL and SYSENTER.
///
/// # Safety
/// Must run at CPL 0 with EFER.SVME set. `page` must be the physical address of a frame that
/// belongs to the caller.
pub(super) unsafe fn vmsave(page: u64) {
    // SAFETY: guaranteed by the caller.
    unsafe { asm!("vmsave rax", in("rax") page, options(nostack, preserves_flags)) };
}

/// Runs the guest until its next #VMEXIT.
///
/// Use of GIF (15.17, 15.21.1): `clgi` blocks all interrupts. With V_INTR_MASKING, the following
/// `sti` makes physical interrupts cause an exit. VMRUN sets GIF, and #VMEXIT clears it. `cli`
/// before `stgi` keeps interrupts pending until the caller enables them. An NMI is taken at `stgi`,
/// on the host's own stack and segments.
///
/// IA32_XSS and TSC_AUX are 0 for the guest, because no intercept covers XSAVES and RDPID. No
/// handler of the kernel runs while they are 0.
///
/// The function clears all caller-saved registers before it returns, so that no value of the guest
/// steers the kernel's speculative execution.
///
/// # Safety
/// - Must run at CPL 0 with interrupts disabled, EFER.SVME set and VM_HSAVE_PA valid.
/// - `context.vmcb` must be a VMCB that passes VMRUN's checks and maps the guest only to its own
///   memory.
/// - `context.host_vmcb` must have been filled by [`vmsave`] on this CPU.
/// - `context.guest_xcr0` must be valid for XCR0, and `context.host_xcr0` must be the current XCR0.
/// - The CPU must support all of `context.measures`.
/// - The kernel must not use a shadow stack.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn enter(context: *mut Context) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "clgi",
        "sti",
        "mov rax, [rdi + {guest_xcr0}]",
        "cmp rax, [rdi + {host_xcr0}]",
        "je 2f",
        "mov rdx, rax",
        "shr rdx, 32",
        "xor ecx, ecx",
        "xsetbv",
        "2:",
        "test dword ptr [rdi + {measures}], {at_entry}",
        "jz 5f",
        "test dword ptr [rdi + {measures}], {switch_xss}",
        "jz 4f",
        "xor eax, eax",
        "xor edx, edx",
        "mov ecx, {xss}",
        "wrmsr",
        "4:",
        "test dword ptr [rdi + {measures}], {switch_tsc_aux}",
        "jz 4f",
        "xor eax, eax",
        "xor edx, edx",
        "mov ecx, {tsc_aux}",
        "wrmsr",
        "4:",
        "test dword ptr [rdi + {measures}], {clear_divider}",
        "jz 5f",
        "mov ecx, 1",
        "mov eax, 1",
        "xor edx, edx",
        "div ecx",
        "5:",
        "mov rax, [rdi + {vmcb}]",
        "vmload rax",
        general_registers!(load "rdi"),
        "test dword ptr [rdi + {measures}], {clear_buffers}",
        "jz 5f",
        // After this instruction, only values of the guest are loaded.
        "verw word ptr [rdi + {verw_selector}]",
        "5:",
        "mov rdi, [rdi + {rdi}]",
        "vmrun rax",
        // RAX has the host's value: the address of the VMCB.
        "vmsave rax",
        "mov rax, [rsp]",
        general_registers!(save "rax"),
        "mov [rax + {rdi}], rdi",
        "mov rdi, rax",
        "mov rax, [rdi + {host_vmcb}]",
        "vmload rax",
        "cmp dword ptr [rdi + {guest_uses_xcr0}], 0",
        "je 3f",
        "xor ecx, ecx",
        "xgetbv",
        "shl rdx, 32",
        "or rax, rdx",
        "mov [rdi + {guest_xcr0}], rax",
        "cmp rax, [rdi + {host_xcr0}]",
        "je 3f",
        "mov eax, [rdi + {host_xcr0}]",
        "mov edx, [rdi + {host_xcr0} + 4]",
        "xsetbv",
        "3:",
        "test dword ptr [rdi + {measures}], {at_exit}",
        "jz 5f",
        "test dword ptr [rdi + {measures}], {switch_xss}",
        "jz 4f",
        "mov eax, [rdi + {host_xss}]",
        "mov edx, [rdi + {host_xss} + 4]",
        "mov ecx, {xss}",
        "wrmsr",
        "4:",
        "test dword ptr [rdi + {measures}], {switch_tsc_aux}",
        "jz 4f",
        "mov eax, [rdi + {host_tsc_aux}]",
        "mov edx, [rdi + {host_tsc_aux} + 4]",
        "mov ecx, {tsc_aux}",
        "wrmsr",
        "4:",
        "test dword ptr [rdi + {measures}], {barrier_at_exit}",
        "jz 5f",
        barrier_assembly!(),
        "5:",
        fill_return_stack!(),
        "cli",
        "stgi",
        "xor eax, eax",
        "xor ecx, ecx",
        "xor edx, edx",
        "xor esi, esi",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "pop rdi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        vmcb = const VMCB,
        host_vmcb = const HOST_VMCB,
        guest_xcr0 = const GUEST_XCR0,
        guest_uses_xcr0 = const GUEST_USES_XCR0,
        host_xcr0 = const HOST_XCR0,
        host_xss = const HOST_XSS,
        host_tsc_aux = const HOST_TSC_AUX,
        verw_selector = const VERW_SELECTOR,
        measures = const MEASURES,
        at_entry = const Measures::AT_ENTRY.bits(),
        at_exit = const Measures::AT_EXIT.bits(),
        switch_xss = const Measures::SWITCH_XSS.bits(),
        switch_tsc_aux = const Measures::SWITCH_TSC_AUX.bits(),
        clear_divider = const Measures::CLEAR_DIVIDER.bits(),
        clear_buffers = const Measures::CLEAR_BUFFERS.bits(),
        barrier_at_exit = const Measures::BARRIER_AT_EXIT.bits(),
        pred_cmd = const PRED_CMD,
        ibpb = const IBPB,
        xss = const XSS,
        tsc_aux = const IA32_TSC_AUX,
        rdi = const gpr!(rdi),
    )
}
