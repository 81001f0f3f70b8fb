//! Measures the cycles of a loop of additions. The argument is the number of additions (default:
//! 10^8).
#![no_std]
#![no_main]

use guest_bindings::{ExitStatus, StartInfo, println};
use test_unikernels::{check, cycles, number, success, sum_of_threes};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    let additions = start.arguments().next().map_or(100_000_000, number);
    let before = cycles();
    let sum = sum_of_threes(additions);
    let after = cycles();
    check(sum == 3 * additions, "the sum is wrong");
    println!("cycles: {}", after - before);
    success()
}
