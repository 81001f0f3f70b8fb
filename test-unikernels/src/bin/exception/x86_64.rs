//! x86_64.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::asm;

use guest_bindings::x86_64::interrupt_table;
use guest_bindings::{ExitStatus, StartInfo};
use test_unikernels::{access, argument, failure, number};

pub(super) fn main(start: &StartInfo) -> ExitStatus {
    let address = || number(argument(start, 1)) as usize;
    // SAFETY: Each of these instructions ends the guest, here and below.
    unsafe {
        match argument(start, 0) {
            "divide" => asm!("div {zero:e}", zero = in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _),
            "single-step" => asm!("pushfq", "or dword ptr [rsp], 0x100", "popfq", "nop"),
            "breakpoint" => asm!("int3"),
            "undefined" => asm!("ud2"),
            "not-canonical" => asm!("mov {0}, [{0}]", inout(reg) 0x8000_0000_0000_0000_u64 => _),
            "stack-not-canonical" => asm!("push rbp", "mov rbp, {}", "mov rbp, [rbp]", in(reg) 1_u64 << 63),
            "x87" => x87(),
            "simd" => simd(),
            "read" => access::read(address()),
            "write" => access::write(address()),
            "run" => access::run(address()),
            "no-stack" => asm!("mov rsp, 8", "push rax", options(noreturn)),
            "double-fault" => double_fault(),
            "interrupt-0x80" => asm!("int 0x80"),
            other => failure(format_args!("there is no '{other}'")),
        }
    }
    failure("no exception")
}

/// Divides by zero with the exception unmasked. The x87 FPU reports it at the next waiting
/// instruction.
unsafe fn x87() {
    let control = 0x037b_u16;
    // SAFETY: The instruction ends the guest.
    unsafe { asm!("fldcw [{}]", "fld1", "fldz", "fdivp st(1), st", "fwait", in(reg) &control) }
}

/// Divides by zero with the exception unmasked. SSE reports it immediately.
unsafe fn simd() {
    let control = 0x1d80_u32;
    // SAFETY: The instruction ends the guest.
    unsafe { asm!("ldmxcsr [{}]", "divss {}, {}", in(reg) &control, inout(xmm_reg) 1.0_f32 => _, in(xmm_reg) 0.0_f32) }
}

/// Limits the table so that the gate of #DF is the last one, then raises an exception with a later
/// gate.
unsafe fn double_fault() {
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let pointer = Pointer { limit: 9 * 16 - 1, base: interrupt_table().base };
    // SAFETY: The instruction ends the guest.
    unsafe {
        asm!("lidt [{}]", in(reg) &raw const pointer);
        access::read(8);
    }
}
