//! Measures the cycles of sending a frame of 1500 bytes.
#![no_std]
#![no_main]

use guest_bindings::{ExitStatus, Net, StartInfo, println};
use test_unikernels::{check, cycles, failure, number, success};

guest_bindings::manifest! { net "service" }
guest_bindings::entry!(main);

/// Header of an Ethernet broadcast frame with a type for experiments (IEEE 802, 88b5).
const HEADER: [u8; 14] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];

fn main(start: &StartInfo) -> ExitStatus {
    let frames = start.arguments().next().map_or(100_000, number);
    let net = Net::open("service").unwrap_or_else(|error| failure(error));
    let mut frame = [0x5a; 1500];
    frame[..HEADER.len()].copy_from_slice(&HEADER);
    let mut failed = 0;
    let before = cycles();
    for _ in 0..frames {
        failed += u64::from(net.write(&frame).is_err());
    }
    let taken = cycles() - before;
    check(failed == 0, format_args!("{failed} of {frames} failed"));
    println!("cycles per frame: {}", taken / frames);
    success()
}
