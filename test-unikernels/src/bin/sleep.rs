//! Sleeps for the given number of seconds, or forever.
#![no_std]
#![no_main]

use core::time::Duration;

use guest_bindings::clock::Instant;
use guest_bindings::{ExitStatus, StartInfo, println, yield_until};
use test_unikernels::{number, success};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    println!("sleeping");
    if let Some(seconds) = start.arguments().next() {
        yield_until(Instant::now() + Duration::from_secs(number(seconds)));
        return success();
    }
    loop {
        yield_until(Instant::now() + Duration::MAX);
    }
}
