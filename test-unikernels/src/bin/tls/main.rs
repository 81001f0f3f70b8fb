//! Thread-local variables: initial values, one set per thread pointer, switched explicitly.
#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]
#![no_std]
#![no_main]

extern crate alloc;

#[macro_use]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
mod arch;

use alloc::alloc::alloc;
use core::arch::global_asm;
use core::mem::MaybeUninit;
use core::slice;

use guest_bindings::{ExitStatus, StartInfo, tls};
use test_unikernels::{check, success};

guest_bindings::manifest! {}
guest_bindings::entry!(main);

// Stable Rust has no attribute for thread-local variables.
global_asm!(
    ".section .tdata, \"awT\", @progbits",
    ".balign 8",
    "with_value: .quad 0xc0ffee",
    ".balign 32",
    "aligned: .quad 0xa11",
    ".section .tbss, \"awT\", @nobits",
    ".balign 64",
    "zero: .skip 8",
);

variable!(with_value, set_with_value, address_of_with_value, "with_value");
variable!(aligned, set_aligned, address_of_aligned, "aligned");
variable!(zero, set_zero, address_of_zero, "zero");

/// Allocates memory for the variables of a thread, filled with values other than the initial ones.
fn block() -> &'static mut [MaybeUninit<u8>] {
    let layout = tls::block_layout();
    // SAFETY: The layout is not empty.
    let memory = unsafe { alloc(layout) }.cast::<MaybeUninit<u8>>();
    check(!memory.is_null(), "no memory");
    // SAFETY: The bytes were allocated and are never freed.
    let block = unsafe { slice::from_raw_parts_mut(memory, layout.size()) };
    block.fill(MaybeUninit::new(0xaa));
    block
}

fn main(_: &StartInfo) -> ExitStatus {
    check_fresh("first");
    set_with_value(1);
    set_aligned(2);
    set_zero(3);

    let first = tls::thread_pointer();
    let second = tls::init(block());
    // SAFETY: No address of a variable is kept, here and below.
    unsafe { tls::set_thread_pointer(second) };
    check(tls::thread_pointer() == second, "the thread pointer does not hold its own address");
    check_fresh("second");
    set_with_value(4);

    // SAFETY: As above.
    unsafe { tls::set_thread_pointer(first) };
    check((with_value(), aligned(), zero()) == (1, 2, 3), "the first thread's variables have changed");
    // SAFETY: As above.
    unsafe { tls::set_thread_pointer(second) };
    check(with_value() == 4, "the second thread's variables have changed");
    success()
}

fn check_fresh(thread: &str) {
    let values = (with_value(), aligned(), zero());
    check(values == (0xc0ffee, 0xa11, 0), format_args!("the {thread} thread's variables start as {values:x?}"));
    check(address_of_with_value().is_multiple_of(8), "a variable is not aligned to 8");
    check(address_of_aligned().is_multiple_of(32), "a variable is not aligned to 32");
    check(address_of_zero().is_multiple_of(64), "a variable is not aligned to 64");
}
