//! Floating-point arithmetic works, and floating-point registers survive hypercalls.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
mod arch;

use guest_bindings::{ExitStatus, StartInfo};
use test_unikernels::{check, success};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

fn main(_: &StartInfo) -> ExitStatus {
    arithmetic();
    arch::check_registers();
    success()
}

/// Compiled floating-point code computes correct results.
fn arithmetic() {
    let numbers = core::hint::black_box([2.0_f32, 5.0, 3.0, 8.0]);
    check(numbers.map(|number| number * number) == [4.0, 25.0, 9.0, 64.0], "a number is multiplied wrongly");
    let third = core::hint::black_box(1.0_f64) / 3.0;
    check(third.to_bits() == 0x3fd5_5555_5555_5555, "a number is divided wrongly");
}
