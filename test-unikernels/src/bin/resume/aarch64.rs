//! aarch64.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use guest_bindings::{ExitStatus, StartInfo};
use test_unikernels::{check, success};

/// Number of times that each exception is raised.
const ROUNDS: u64 = 100;

/// Number of handled exceptions.
static HANDLED: AtomicU64 = AtomicU64::new(0);

// Vector table with only the fifth vector: synchronous exceptions from EL1 on SP_EL1. The handler
// counts the exception and skips the instruction; ELR_EL1 of an `svc` (ESR_EL1.EC 0x15) already
// points after the instruction. A faulting load (EC 0x25) to X0 reads 7 (Arm ARM, D17.2.37).
global_asm!(
    ".pushsection .text.vectors, \"ax\"",
    ".balign 2048",
    "vectors:",
    ".rept 4",
    ".balign 128",
    "brk #0",
    ".endr",
    ".balign 128",
    "stp x16, x17, [sp, #-16]!",
    "adrp x16, {handled}",
    "add x16, x16, :lo12:{handled}",
    "ldr x17, [x16]",
    "add x17, x17, #1",
    "str x17, [x16]",
    "mrs x16, ESR_EL1",
    "lsr x16, x16, #26",
    "cmp x16, #0x15",
    "b.eq 2f",
    "mrs x17, ELR_EL1",
    "add x17, x17, #4",
    "msr ELR_EL1, x17",
    "cmp x16, #0x25",
    "b.ne 2f",
    "mov x0, #7",
    "2:",
    "ldp x16, x17, [sp], #16",
    "eret",
    ".balign 2048",
    ".popsection",
    handled = sym HANDLED,
);

pub(super) fn main(_: &StartInfo) -> ExitStatus {
    // SAFETY: The vectors handle the exceptions raised here.
    unsafe { asm!("adrp {0}, vectors", "add {0}, {0}, :lo12:vectors", "msr VBAR_EL1, {0}", "isb", out(reg) _) };
    for round in 0..ROUNDS {
        // SAFETY: The handler returns and changes nothing.
        unsafe { asm!("brk #1", "udf #0", "svc #0") };
        let (seven, kept): (u64, u64);
        // SAFETY: The handler returns and changes only the declared registers. Flags and stack are
        // restored.
        unsafe {
            asm!(
                "cmp xzr, xzr", "ldr x0, [x1]", "adc {kept}, {round}, xzr",
                round = in(reg) round, kept = lateout(reg) kept, out("x0") seven, in("x1") 8,
            );
        }
        check(seven == 7, format_args!("the read returned {seven}"));
        check(kept == round + 1, "an exception has changed a register or a flag");
    }
    let handled = HANDLED.load(Ordering::Relaxed);
    check(handled == 4 * ROUNDS, format_args!("{handled} exceptions were handled"));
    success()
}
