//! Prints the number of its arguments, and each argument on a line.
#![no_std]
#![no_main]

use guest_bindings::{ExitStatus, StartInfo, println};
use test_unikernels::success;

guest_bindings::manifest! {}
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    println!("{}", start.arguments().count());
    for argument in start.arguments() {
        println!("[{argument}]");
    }
    success()
}
