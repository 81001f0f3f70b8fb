//! Writes every byte value, many times, in one call.
#![no_std]
#![no_main]

use guest_bindings::{ExitStatus, StartInfo, console};
use test_unikernels::success;

guest_bindings::manifest! {}
guest_bindings::entry!(main);

static BYTES: [u8; 64 << 10] = {
    let mut bytes = [0; 64 << 10];
    let mut index = 0;
    while index < bytes.len() {
        bytes[index] = index as u8;
        index += 1;
    }
    bytes
};

fn main(_: &StartInfo) -> ExitStatus {
    console::write(&BYTES);
    success()
}
