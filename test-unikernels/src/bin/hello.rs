//! Prints a greeting and its arguments.
#![no_std]
#![no_main]

use guest_bindings::{ExitStatus, StartInfo, println};
use test_unikernels::success;

guest_bindings::manifest! {}
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    println!("Hello, World");
    println!("Command line is: '{}'", start.command_line);
    success()
}
