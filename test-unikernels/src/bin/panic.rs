//! Panics.
#![no_std]
#![no_main]

use guest_bindings::{ExitStatus, StartInfo};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    panic!("the answer is {}", 42 + start.arguments().count())
}
