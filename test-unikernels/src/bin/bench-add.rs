//! Cycles of a loop of additions, as many as its argument says, or 10^8.
#![no_std]
#![no_main]

use core::arch::asm;
use core::arch::x86_64::_rdtsc;

use guest_bindings::{ExitStatus, StartInfo, println};
use test_unikernels::{check, number, success};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    let additions = start.arguments().next().map_or(100_000_000, number);
    let sum: u64;
    // SAFETY: Every x86_64 CPU has it.
    let cycles = || unsafe { _rdtsc() };
    let before = cycles();
    // SAFETY: Registers only. In assembly, so that no compiler knows the sum.
    unsafe {
        asm!(
            ".balign 32",
            "2:",
            "add {sum}, 3",
            "dec {additions}",
            "jnz 2b",
            sum = inout(reg) 0_u64 => sum,
            additions = inout(reg) additions => _,
            options(nomem, nostack),
        );
    }
    let after = cycles();
    check(sum == 3 * additions, "the sum is wrong");
    println!("cycles: {}", after - before);
    success()
}
