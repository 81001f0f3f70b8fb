//! Aborts.
#![no_std]
#![no_main]

use guest_bindings::{ExitStatus, StartInfo, abort};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

fn main(_: &StartInfo) -> ExitStatus {
    abort("enough is enough")
}
