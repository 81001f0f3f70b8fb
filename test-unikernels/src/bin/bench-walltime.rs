//! Measures the cycles of a hypercall with minimal work.
#![no_std]
#![no_main]

use guest_bindings::{ExitStatus, StartInfo, clock, println};
use test_unikernels::{cycles, number, success};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    let calls = start.arguments().next().map_or(100_000, number);
    // With `--solo5:quiet` this is the guest's first hypercall.
    let first = clock::wall();
    let before = cycles();
    for _ in 0..calls {
        let _ = clock::wall();
    }
    println!("cycles per call: {}", (cycles() - before) / calls);
    println!("first call at: {}", first.as_nanos());
    success()
}
