//! Makes the hypercall named in its first argument. The other arguments change fields of the
//! hypercall's argument.
#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]
#![no_std]
#![no_main]

use guest_bindings::abi::Gpa;
use guest_bindings::abi::hypercall::{BlockIo, Halt, NetIo, Number, Poll, Puts, Walltime};
use guest_bindings::{ExitStatus, StartInfo};
use test_unikernels::{argument, failure, number, option, raw, success};

guest_bindings::manifest! { block "storage", net "service" }
guest_bindings::entry!(main);

/// Read-only bytes.
static CONSTANT: [u8; 512] = [1; 512];

fn main(start: &StartInfo) -> ExitStatus {
    let mut buffer = [b'.'; 512];
    let data = match option(start, "data") {
        None => Gpa((&raw mut buffer).expose_provenance() as u64),
        Some("constant") => Gpa((&raw const CONSTANT).expose_provenance() as u64),
        Some(text) => Gpa(number(text)),
    };
    let len = option(start, "len").map_or(buffer.len() as u64, number);
    let cookie = Gpa(option(start, "cookie").map_or(0, number));
    let block = || BlockIo { handle: 1, offset: 0, data, len, ret: -1, reserved: 0 };
    let net = || NetIo { handle: 2, data, len, ret: -1, reserved: 0 };
    match argument(start, 0) {
        "walltime" => call(start, Number::Walltime, Walltime::default()),
        "puts" => call(start, Number::Puts, Puts { data, len }),
        "poll" => call(start, Number::Poll, Poll::default()),
        "block-read" => call(start, Number::BlockRead, block()),
        "block-write" => call(start, Number::BlockWrite, block()),
        "net-read" => call(start, Number::NetRead, net()),
        "net-write" => call(start, Number::NetWrite, net()),
        "halt" => call(start, Number::Halt, Halt { cookie, exit_status: 0, reserved: 0 }),
        other => failure(format_args!("there is no '{other}'")),
    }
    success()
}

/// Makes the hypercall. The command line may change the address of the argument.
fn call<T>(start: &StartInfo, number_of_call: Number, mut argument: T) {
    let address = option(start, "argument").map_or((&raw mut argument).expose_provenance() as u64, number);
    // SAFETY: The tender rejects hypercalls that would modify memory in use.
    unsafe { raw::hypercall(number_of_call, address as u32) }
}
