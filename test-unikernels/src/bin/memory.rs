//! Makes a memory access that a rule may forbid.
#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use core::cell::UnsafeCell;

use guest_bindings::{ExitStatus, StartInfo};
use test_unikernels::access::Returns;
use test_unikernels::{access, argument, check, failure, number, success};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

static CONSTANT: Returns = Returns::HERE;

#[repr(transparent)]
struct Variable(UnsafeCell<Returns>);

// SAFETY: Only the address of the static is used.
unsafe impl Sync for Variable {}

static VARIABLE: Variable = Variable(UnsafeCell::new(Returns::HERE));

fn main(start: &StartInfo) -> ExitStatus {
    match argument(start, 0) {
        "edges" => return edges(start),
        "fresh" => return fresh(start),
        _ => {}
    }
    let stack = Returns::HERE;
    let heap = Box::new(Returns::HERE);
    let address = match argument(start, 1) {
        "constant" => (&raw const CONSTANT).expose_provenance(),
        "variable" => VARIABLE.0.get().expose_provenance(),
        "stack" => (&raw const stack).expose_provenance(),
        "heap" => (&raw const *heap).expose_provenance(),
        other => number(other) as usize,
    };
    // SAFETY: A permitted access is a read, or a write or call of a `ret`. Overwritten code is not
    // used again.
    unsafe {
        match argument(start, 0) {
            "read" => access::read(address),
            "write" => access::write(address),
            "run" => access::run(address),
            other => failure(format_args!("there is no '{other}'")),
        }
    }
    failure("the access went through")
}

/// Checks that fresh memory is zeroed and in particular contains no data of the host.
fn fresh(start: &StartInfo) -> ExitStatus {
    let heap = core::ptr::with_exposed_provenance::<u64>(start.heap_start);
    // SAFETY: The allocator has not been used yet, so the heap has no other users.
    let words = unsafe { core::slice::from_raw_parts(heap, start.heap_size / size_of::<u64>()) };
    check(words.iter().all(|&word| word == 0), "the heap is not empty");
    success()
}

/// Accesses the first and last bytes of writable and of readable memory.
fn edges(start: &StartInfo) -> ExitStatus {
    unsafe extern "C" {
        static _etext: u8;
        static _erodata: u8;
        static _end: u8;
    }
    let read_only = (&raw const _etext).expose_provenance()..(&raw const _erodata).expose_provenance();
    let writable = (&raw const _erodata).expose_provenance()..(&raw const _end).expose_provenance();
    check(read_only.start % 4096 == 0 && writable.start % 4096 == 0, "segments share a page");
    let last_read_only = read_only.end - 8;
    // SAFETY: The memory is readable or writable as required. Each written byte is unused or keeps
    // its value.
    unsafe {
        for address in [0x1_0000, 0xf_fff8, read_only.start, last_read_only, writable.start, start.memory_size - 8] {
            access::read(address);
        }
        for address in [writable.start, writable.end - 1, start.heap_start, start.memory_size - 1] {
            let byte = core::ptr::with_exposed_provenance_mut::<u8>(address);
            byte.write_volatile(byte.read_volatile());
        }
    }
    success()
}
