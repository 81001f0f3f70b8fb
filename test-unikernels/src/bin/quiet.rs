//! Says SUCCESS and nothing else: what else is said is the bindings'.
#![no_std]
#![no_main]

use guest_bindings::{ExitStatus, StartInfo};
use test_unikernels::success;

guest_bindings::manifest! {}
guest_bindings::entry!(main);

fn main(_: &StartInfo) -> ExitStatus {
    success()
}
