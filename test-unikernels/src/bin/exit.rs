//! Exits with the status in its argument.
#![no_std]
#![no_main]

use guest_bindings::{ExitStatus, StartInfo};
use test_unikernels::{argument, number};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    ExitStatus(number(argument(start, 0)) as i32)
}
