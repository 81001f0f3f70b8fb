//! x86_64.

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use guest_bindings::abi::x86_64::Vector;
use guest_bindings::{ExitStatus, StartInfo};
use test_unikernels::{check, handle, success};

/// How often each exception is raised.
const ROUNDS: u64 = 100;

/// Exceptions that were handled.
static HANDLED: AtomicU64 = AtomicU64::new(0);

/// For an exception without error code that leaves RIP behind the instruction.
#[unsafe(naked)]
unsafe extern "C" fn go_on() {
    naked_asm!("inc qword ptr [rip + {handled}]", "iretq", handled = sym HANDLED)
}

/// For one that leaves RIP at the instruction, which is `ud2`: two bytes.
#[unsafe(naked)]
unsafe extern "C" fn skip_two() {
    naked_asm!("inc qword ptr [rip + {handled}]", "add qword ptr [rsp], 2", "iretq", handled = sym HANDLED)
}

/// For one with error code at a `mov rax, [rcx]`: three bytes. Reads as 7.
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
    // SAFETY: Each ends in `iretq`, and changes what the instructions below declare.
    unsafe {
        handle(Vector::Breakpoint, go_on);
        handle(Vector::InvalidOpcode, skip_two);
        handle(Vector::PageFault, read_as_seven);
    }
    for round in 0..ROUNDS {
        // SAFETY: The handlers come back, having changed nothing but what is named.
        unsafe { asm!("int3", "ud2") };
        let (seven, kept): (u64, u64);
        // SAFETY: Likewise. Flags and stack come back as they were.
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
