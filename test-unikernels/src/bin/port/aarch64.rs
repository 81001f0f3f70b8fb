//! aarch64.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::asm;

use guest_bindings::abi::aarch64::MMIO_BASE;
use guest_bindings::{ExitStatus, StartInfo};
use test_unikernels::{argument, failure, number, raw};

pub(super) fn main(start: &StartInfo) -> ExitStatus {
    let address = MMIO_BASE.0 + number(argument(start, 1));
    let mut bytes = [0_u8; 16];
    let value = (&raw mut bytes).expose_provenance() as u64;
    // SAFETY: No device has these addresses, so no access modifies memory.
    unsafe {
        match argument(start, 0) {
            "store32" => raw::store32(address, value as u32),
            "store64" => asm!("str {}, [{}]", in(reg) value, in(reg) address),
            "store16" => asm!("strh {:w}, [{}]", in(reg) value as u32, in(reg) address),
            "store8" => asm!("strb {:w}, [{}]", in(reg) value as u32, in(reg) address),
            "store-pair" => asm!("stp {0:w}, {0:w}, [{1}]", in(reg) value as u32, in(reg) address),
            "load32" => asm!("ldr {:w}, [{}]", out(reg) _, in(reg) address),
            "load8" => asm!("ldrb {:w}, [{}]", out(reg) _, in(reg) address),
            other => failure(format_args!("there is no '{other}'")),
        }
    }
    failure("the access went through")
}
