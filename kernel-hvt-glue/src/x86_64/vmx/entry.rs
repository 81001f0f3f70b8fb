//! Entry to and exit from the guest (SDM volume 3, chapters 27 and 28).

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use core::arch::naked_asm;

use super::fields::HOST_RSP;
use crate::x86_64::{
    context::{
        CR2, Context, ENTRY_FAILED, GUEST_USES_XCR0, GUEST_XCR0, HOST_XCR0, L1D_FILL, LAUNCHED, MEASURES,
        VERW_SELECTOR, general_registers, gpr,
    },
    mitigations::{FLUSH_CMD, IBPB, L1D_FILL_SIZE, L1D_FLUSH, Measures, PRED_CMD, barrier_assembly, fill_return_stack},
};

/// Common end of successful and failed entries. RDI is the context, and the kernel's callee-saved
/// registers are on the stack. Restores the kernel's XCR0 and clears the guest's registers, so that
/// no value of the guest steers the kernel's speculative execution.
macro_rules! epilogue {
    () => {
        concat!(
            "cmp dword ptr [rdi + {guest_uses_xcr0}], 0\n",
            "je 3f\n",
            "mov rax, [rdi + {host_xcr0}]\n",
            "cmp rax, [rdi + {guest_xcr0}]\n",
            "je 3f\n",
            "mov rdx, rax\n",
            "shr rdx, 32\n",
            "xor ecx, ecx\n",
            "xsetbv\n",
            "3:\n",
            "test dword ptr [rdi + {measures}], {barrier_at_exit}\n",
            "jz 4f\n",
            barrier_assembly!(),
            "4:\n",
            fill_return_stack!(),
            "test dword ptr [rdi + {measures}], {clear_history}\n",
            "jz 6f\n",
            clear_history!(),
            "6:\n",
            "xor eax, eax\n",
            "xor ecx, ecx\n",
            "xor edx, edx\n",
            "xor esi, esi\n",
            "xor r8d, r8d\n",
            "xor r9d, r9d\n",
            "xor r10d, r10d\n",
            "xor r11d, r11d\n",
            "pop r15\n",
            "pop r14\n",
            "pop r13\n",
            "pop r12\n",
            "pop rbp\n",
            "pop rbx\n",
            "ret",
        )
    };
}

/// Branches that remove all of the guest's branches from the branch history: five calls deep, five
/// times five jumps each (Intel, "Branch History Injection and Intra-mode Branch Target
/// Injection"). Clobbers RAX and RCX.
macro_rules! clear_history {
    () => {
        concat!(
            "mov ecx, 5\n",
            "call 7f\n",
            "jmp 9f\n",
            ".balign 64\n",
            "7: call 8f\n",
            "ret\n",
            ".balign 64\n",
            "8: mov eax, 5\n",
            "2: jmp 3f\n",
            "nop\n",
            "3: sub eax, 1\n",
            "jnz 2b\n",
            "sub ecx, 1\n",
            "jnz 7b\n",
            "ret\n",
            "9: lfence\n",
        )
    };
}

/// Runs the guest until its next VM exit, which continues in [`leave`]. Sets `context.entry_failed`
/// if VMLAUNCH or VMRESUME failed and there was no exit.
///
/// # Safety
/// - Must run at CPL 0 with interrupts disabled, in VMX operation.
/// - The current VMCS must pass the checks at VM entry, must map the guest only to its own memory,
///   and must contain [`leave`] and the kernel's state as host state.
/// - `context.launched` must reflect the launch state of the VMCS.
/// - `context.guest_xcr0` must be valid for XCR0, and `context.host_xcr0` must be the current XCR0.
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
        "mov eax, {host_rsp}",
        "vmwrite rax, rsp",
        "mov rax, [rdi + {guest_xcr0}]",
        "cmp rax, [rdi + {host_xcr0}]",
        "je 2f",
        "mov rdx, rax",
        "shr rdx, 32",
        "xor ecx, ecx",
        "xsetbv",
        "2:",
        "test dword ptr [rdi + {measures}], {at_entry}",
        "jz 6f",
        "test dword ptr [rdi + {measures}], {flush_l1d}",
        "jz 2f",
        "mov ecx, {flush_cmd}",
        "mov eax, {l1d_flush}",
        "xor edx, edx",
        "wrmsr",
        "2:",
        "test dword ptr [rdi + {measures}], {fill_l1d}",
        "jz 6f",
        "mov rcx, [rdi + {l1d_fill}]",
        // Touch every page first, so that page walks do not evict the lines.
        "xor eax, eax",
        "3: movzx edx, byte ptr [rcx + rax]",
        "add eax, 4096",
        "cmp eax, {l1d_fill_size}",
        "jne 3b",
        "lfence",
        "xor eax, eax",
        "3: movzx edx, byte ptr [rcx + rax]",
        "add eax, 64",
        "cmp eax, {l1d_fill_size}",
        "jne 3b",
        "lfence",
        "6:",
        "mov rax, [rdi + {cr2}]",
        "mov cr2, rax",
        "mov rax, [rdi + {rax}]",
        general_registers!(load "rdi"),
        "test dword ptr [rdi + {measures}], {clear_buffers}",
        "jz 2f",
        // After this instruction, only values of the guest are loaded.
        "verw word ptr [rdi + {verw_selector}]",
        "2:",
        "cmp dword ptr [rdi + {launched}], 0",
        "mov rdi, [rdi + {rdi}]",
        "je 4f",
        "vmresume",
        "jmp 5f",
        "4:",
        "vmlaunch",
        // Execution continues here only after a failure.
        "5:",
        "pop rdi",
        "mov dword ptr [rdi + {entry_failed}], 1",
        epilogue!(),
        host_rsp = const HOST_RSP.encoding(),
        cr2 = const CR2,
        launched = const LAUNCHED,
        entry_failed = const ENTRY_FAILED,
        guest_xcr0 = const GUEST_XCR0,
        guest_uses_xcr0 = const GUEST_USES_XCR0,
        host_xcr0 = const HOST_XCR0,
        verw_selector = const VERW_SELECTOR,
        l1d_fill = const L1D_FILL,
        l1d_fill_size = const L1D_FILL_SIZE,
        at_entry = const Measures::AT_ENTRY.bits(),
        flush_cmd = const FLUSH_CMD,
        l1d_flush = const L1D_FLUSH,
        flush_l1d = const Measures::FLUSH_L1D.bits(),
        fill_l1d = const Measures::FILL_L1D.bits(),
        clear_buffers = const Measures::CLEAR_BUFFERS.bits(),
        measures = const MEASURES,
        barrier_at_exit = const Measures::BARRIER_AT_EXIT.bits(),
        pred_cmd = const PRED_CMD,
        ibpb = const IBPB,
        clear_history = const Measures::CLEAR_HISTORY.bits(),
        rax = const gpr!(rax),
        rdi = const gpr!(rdi),
    )
}

/// Target of every VM exit, with the stack as [`enter`] has left it.
///
/// # Safety
/// Must not be called. Its address belongs in the host-state area of a VMCS that only [`enter`]
/// enters.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn leave() {
    naked_asm!(
        "push rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi + {rax}], rax",
        general_registers!(save "rdi"),
        "pop qword ptr [rdi + {rdi}]",
        "pop rax",
        "mov rax, cr2",
        "mov [rdi + {cr2}], rax",
        "mov dword ptr [rdi + {launched}], 1",
        epilogue!(),
        cr2 = const CR2,
        launched = const LAUNCHED,
        guest_xcr0 = const GUEST_XCR0,
        guest_uses_xcr0 = const GUEST_USES_XCR0,
        host_xcr0 = const HOST_XCR0,
        measures = const MEASURES,
        barrier_at_exit = const Measures::BARRIER_AT_EXIT.bits(),
        pred_cmd = const PRED_CMD,
        ibpb = const IBPB,
        clear_history = const Measures::CLEAR_HISTORY.bits(),
        rax = const gpr!(rax),
        rdi = const gpr!(rdi),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the difference of the stack pointer after filling the return stack and clearing the
    /// branch history. Neither needs a privilege.
    #[unsafe(naked)]
    extern "sysv64" fn stack_after_mitigations() -> u64 {
        naked_asm!("mov rdx, rsp", fill_return_stack!(), clear_history!(), "mov rax, rsp", "sub rax, rdx", "ret",)
    }

    #[test]
    #[cfg_attr(miri, ignore = "assembly")]
    fn calls_that_never_return_leave_the_stack_as_it_was() {
        assert_eq!(stack_after_mitigations(), 0);
    }
}
