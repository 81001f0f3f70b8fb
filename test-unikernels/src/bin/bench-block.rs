//! Measures the cycles of block reads and writes. The second argument is the number of bytes per
//! transfer (default: one block).
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec;

use guest_bindings::{Block, DeviceError, ExitStatus, StartInfo, println};
use test_unikernels::{check, cycles, failure, number, success};

guest_bindings::manifest! { block "storage" }
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    let rounds = start.arguments().next().map_or(100_000, number);
    let storage = Block::open("storage").unwrap_or_else(|error| failure(error));
    let info = storage.info();
    let longest = start.arguments().nth(1).map_or(info.block_size as u64, number) as usize;
    let mut buffer = vec![0; longest];
    let last = info.capacity - longest as u64;
    measure("read", rounds, longest, last, |offset| storage.read(offset, &mut buffer));
    measure("write", rounds, longest, last, |offset| storage.write(offset, &buffer));
    success()
}

/// Makes `rounds` transfers of `len` bytes at ascending offsets. After offset `last`, it continues
/// at 0.
fn measure(what: &str, rounds: u64, len: usize, last: u64, mut transfer: impl FnMut(u64) -> Result<(), DeviceError>) {
    let mut offset = 0;
    let mut failed = 0;
    let before = cycles();
    for _ in 0..rounds {
        failed += u64::from(transfer(offset).is_err());
        offset = if offset < last { offset + len as u64 } else { 0 };
    }
    let taken = cycles() - before;
    check(failed == 0, format_args!("{what}: {failed} of {rounds} failed"));
    println!("cycles per {what}: {}", taken / rounds);
}
