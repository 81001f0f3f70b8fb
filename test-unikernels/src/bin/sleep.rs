//! Waits for good.
#![no_std]
#![no_main]

use core::time::Duration;

use guest_bindings::clock::Instant;
use guest_bindings::{ExitStatus, StartInfo, println, yield_until};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

fn main(_: &StartInfo) -> ExitStatus {
    println!("sleeping");
    loop {
        yield_until(Instant::now() + Duration::MAX);
    }
}
