//! aarch64.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::asm;

use guest_bindings::{ExitStatus, StartInfo};
use test_unikernels::{access, argument, failure, number};

pub(super) fn main(start: &StartInfo) -> ExitStatus {
    let address = || number(argument(start, 1)) as usize;
    // SAFETY: Each of these instructions ends the guest, here and below.
    unsafe {
        match argument(start, 0) {
            "undefined" => asm!("udf #0"),
            "breakpoint" => asm!("brk #7"),
            "supervisor-call" => asm!("svc #5"),
            "branch-not-aligned" => asm!("adr {0}, 2f + 2", "br {0}", "2:", "nop", out(reg) _),
            "exclusive-not-aligned" => exclusive(),
            "read" => access::read(address()),
            "write" => access::write(address()),
            "run" => access::run(address()),
            "no-stack" => asm!("mov sp, {}", "str xzr, [sp, #-16]!", in(reg) 8_u64, options(noreturn)),
            "in-a-report" => in_a_report(),
            other => failure(format_args!("there is no '{other}'")),
        }
    }
    failure("no exception")
}

/// Makes an exclusive load across a 16-byte boundary, which is never permitted.
unsafe fn exclusive() {
    #[repr(align(16))]
    struct Words([u64; 4]);
    let words = Words([0; 4]);
    // SAFETY: The instruction ends the guest.
    unsafe { asm!("ldxr {}, [{}]", out(reg) _, in(reg) (&raw const words.0).byte_add(12)) }
}

/// Removes the stack for exception reports.
unsafe fn in_a_report() {
    // SAFETY: The instruction ends the guest.
    unsafe { asm!("msr SP_EL0, {}", "udf #0", in(reg) 0x8000_u64) }
}
