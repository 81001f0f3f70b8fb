//! Cycles of reading and writing a block.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec;
use core::arch::x86_64::_rdtsc;

use guest_bindings::{Block, ExitStatus, StartInfo, println};
use test_unikernels::{check, failure, number, success};

guest_bindings::manifest! { block "storage" }
guest_bindings::entry!(main);

fn main(start: &StartInfo) -> ExitStatus {
    let rounds = start.arguments().next().map_or(100_000, number);
    let storage = Block::open("storage").unwrap_or_else(|error| failure(error));
    let info = storage.info();
    let mut buffer = vec![0; info.block_size];
    let blocks = info.capacity / info.block_size as u64;
    let measure = |what, transfer: &mut dyn FnMut(u64) -> bool| {
        // SAFETY: Every x86_64 CPU has it.
        let cycles = || unsafe { _rdtsc() };
        let before = cycles();
        for round in 0..rounds {
            check(transfer(round % blocks * info.block_size as u64), format_args!("{what} {round}"));
        }
        println!("cycles per {what}: {}", (cycles() - before) / rounds);
    };
    measure("read", &mut |offset| storage.read(offset, &mut buffer) == Ok(()));
    measure("write", &mut |offset| storage.write(offset, &buffer) == Ok(()));
    success()
}
