//! Computes forever.
#![no_std]
#![no_main]

use guest_bindings::{ExitStatus, StartInfo, println};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

fn main(_: &StartInfo) -> ExitStatus {
    println!("spinning");
    loop {
        core::hint::spin_loop();
    }
}
