//! The exception vectors, and the path of an exception to its report.
//!
//! The guest runs on SP_EL1. Code at the start of an exception also runs on SP_EL1, whose stack may
//! be the cause of the exception. The vectors therefore switch to SP_EL0, which has no other users
//! and holds the end of a stack for this purpose. An exception on that stack, during the report of
//! another exception, takes different vectors: the vectors for SP_EL0.

#![expect(unsafe_code, reason = "instructions and tables of the CPU")]

use core::arch::{asm, global_asm, naked_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use super::trap;
use crate::arch::aarch64_report::TrapFrame;
use crate::arch::stack::Stack;
use crate::one_cpu::OneCpu;

/// Stacks for the report of an exception and for an exception during that report.
static STACKS: OneCpu<[Stack; 2]> = OneCpu::new([Stack::new(), Stack::new()]);

/// End of the second stack. Code for that stack has no free register to compute the address.
static FATAL_STACK_TOP: AtomicU64 = AtomicU64::new(0);

// Sixteen vectors of 128 bytes in four groups of four, in the order of `report` (Arm ARM,
// D1.3.1.5). All registers must be preserved. TPIDR_EL1 saves one of them while there is no stack.
global_asm!(
    ".pushsection .text.exception_vectors, \"ax\"",
    ".balign 2048",
    ".hidden __hvt_exception_vectors",
    ".globl __hvt_exception_vectors",
    "__hvt_exception_vectors:",
    ".rept 4",
    ".balign 128",
    "b {fatal}",
    ".endr",
    ".set vector, 4",
    ".rept 12",
    ".balign 128",
    "msr TPIDR_EL1, x0",
    "mov x0, sp",
    "msr SPSel, #0",
    "sub sp, sp, #{size}",
    "str x0, [sp, #{sp}]",
    "mrs x0, TPIDR_EL1",
    "stp x0, x1, [sp]",
    "mov x1, #vector",
    "b {common}",
    ".set vector, vector + 1",
    ".endr",
    ".balign 128",
    ".popsection",
    fatal = sym fatal,
    common = sym common,
    size = const size_of::<TrapFrame>(),
    sp = const offset_of!(TrapFrame, sp),
);

const _: () = {
    assert!(size_of::<TrapFrame>().is_multiple_of(16));
    assert!(offset_of!(TrapFrame, x) == 0);
    assert!(offset_of!(TrapFrame, spsr) == offset_of!(TrapFrame, elr) + 8);
    assert!(offset_of!(TrapFrame, far) == offset_of!(TrapFrame, esr) + 8);
};

/// Completes the [`TrapFrame`] and calls [`trap::report`]. No register is restored because the
/// report does not return.
#[unsafe(naked)]
unsafe extern "C" fn common() {
    naked_asm!(
        "stp x2, x3, [sp, #16]",
        "stp x4, x5, [sp, #32]",
        "stp x6, x7, [sp, #48]",
        "stp x8, x9, [sp, #64]",
        "stp x10, x11, [sp, #80]",
        "stp x12, x13, [sp, #96]",
        "stp x14, x15, [sp, #112]",
        "stp x16, x17, [sp, #128]",
        "stp x18, x19, [sp, #144]",
        "stp x20, x21, [sp, #160]",
        "stp x22, x23, [sp, #176]",
        "stp x24, x25, [sp, #192]",
        "stp x26, x27, [sp, #208]",
        "stp x28, x29, [sp, #224]",
        "str x30, [sp, #240]",
        "mrs x2, ELR_EL1",
        "mrs x3, SPSR_EL1",
        "stp x2, x3, [sp, #{elr}]",
        "mrs x2, ESR_EL1",
        "mrs x3, FAR_EL1",
        "stp x2, x3, [sp, #{esr}]",
        "mov x0, sp",
        "mov x29, xzr",
        "bl {report}",
        "brk #0",
        elr = const offset_of!(TrapFrame, elr),
        esr = const offset_of!(TrapFrame, esr),
        report = sym trap::report,
    )
}

/// Handles an exception during a report. There is no further report.
#[unsafe(naked)]
unsafe extern "C" fn fatal() {
    naked_asm!(
        "adrp x0, {top}",
        "ldr x0, [x0, :lo12:{top}]",
        "mov sp, x0",
        "bl {give_up}",
        "brk #0",
        top = sym FATAL_STACK_TOP,
        give_up = sym trap::give_up,
    )
}

/// Sets VBAR_EL1 so that an exception leads to a report instead of another exception.
///
/// # Safety
///
/// It must be called only once, before any other code runs.
pub(crate) unsafe fn install() {
    unsafe extern "C" {
        #[link_name = "__hvt_exception_vectors"]
        static VECTORS: u8;
    }
    FATAL_STACK_TOP.store(STACKS[1].top(), Ordering::Relaxed);
    // SAFETY: The vectors are code that never moves, and the guest runs on SP_EL1.
    unsafe {
        asm!(
            "msr SP_EL0, {stack}",
            "msr VBAR_EL1, {vectors}",
            "isb",
            stack = in(reg) STACKS[0].top(),
            vectors = in(reg) &raw const VECTORS,
            options(nostack, preserves_flags),
        );
    }
}
