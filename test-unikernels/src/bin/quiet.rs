//! Prints SUCCESS and nothing else. All other output is from the bindings.
#![no_std]
#![no_main]

use guest_bindings::{ExitStatus, StartInfo};
use test_unikernels::success;

guest_bindings::manifest! {}
guest_bindings::entry!(main);

fn main(_: &StartInfo) -> ExitStatus {
    success()
}
