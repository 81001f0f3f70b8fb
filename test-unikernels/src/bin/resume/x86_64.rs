//! x86_64.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use guest_bindings::abi::x86_64::Vector;
use guest_bindings::{ExitStatus, StartInfo};
use test_unikernels::{check, handle, success};

/// Number of times that each exception is raised.
const ROUNDS: u64 = 100;

/// Number of handled exceptions.
static HANDLED: AtomicU64 = AtomicU64::new(0);

/// Handler of an exception without error code whose saved RIP points after the instruction.
#[unsafe(naked)]
unsafe extern "C" fn go_on() {
    naked_asm!("inc qword ptr [rip + {handled}]", "iretq", handled = sym HANDLED)
}

/// Handler of an exception whose saved RIP points to the instruction: `ud2`, two bytes.
#[unsafe(naked)]
unsafe extern "C" fn skip_two() {
    naked_asm!("inc qword ptr [rip + {handled}]", "add qword ptr [rsp], 2", "iretq", handled = sym HANDLED)
}

/// Handler of an exception with error code at a `mov rax, [rcx]`, three bytes. The load reads 7.
#[unsafe(naked)]
unsafe extern "C" fn read_as_seven() {
    naked_asm!(
        "inc qword ptr [rip + {handled}]",
        "add rsp, 8",
        "mov eax, 7",
        "add qword ptr [rsp], 3",
        "iretq",
        handled = sym HANDLED,
    )
}

pub(super) fn main(_: &StartInfo) -> ExitStatus {
    // SAFETY: Each handler ends with `iretq` and changes only what the instructions below declare.
    unsafe {
        handle(Vector::Breakpoint, go_on);
        handle(Vector::InvalidOpcode, skip_two);
        handle(Vector::PageFault, read_as_seven);
    }
    for round in 0..ROUNDS {
        // SAFETY: The handlers return and change nothing except the declared registers.
        unsafe { asm!("int3", "ud2") };
        let (seven, kept): (u64, u64);
        // SAFETY: As above. Flags and stack are restored.
        unsafe {
            asm!(
                "push r12", "mov r12, {round}", "stc", "mov rax, [rcx]", "adc r12, 0", "mov {kept}, r12", "pop r12",
                round = in(reg) round, kept = out(reg) kept, out("rax") seven, inout("rcx") 8 => _,
            );
        }
        check(seven == 7, format_args!("the read returned {seven}"));
        check(kept == round + 1, "an exception has changed a register or a flag");
    }
    let handled = HANDLED.load(Ordering::Relaxed);
    check(handled == 3 * ROUNDS, format_args!("{handled} exceptions were handled"));
    success()
}
