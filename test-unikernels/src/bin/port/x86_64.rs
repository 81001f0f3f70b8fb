//! x86_64.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::asm;

use guest_bindings::{ExitStatus, StartInfo};
use test_unikernels::{argument, failure, number, raw};

pub(super) fn main(start: &StartInfo) -> ExitStatus {
    let port = || number(argument(start, 1)) as u16;
    let mut bytes = [0_u8; 16];
    // SAFETY: No device has these ports, so no access modifies memory. String instructions transfer
    // at most the length of the buffer.
    unsafe {
        match argument(start, 0) {
            "out32" => raw::out32(port(), (&raw mut bytes).expose_provenance() as u32),
            "out16" => asm!("out dx, ax", in("dx") port(), in("ax") 0_u16),
            "out8" => asm!("out dx, al", in("dx") port(), in("al") 0_u8),
            "in32" => asm!("in eax, dx", in("dx") port(), out("eax") _),
            "in16" => asm!("in ax, dx", in("dx") port(), out("ax") _),
            "in8" => asm!("in al, dx", in("dx") port(), out("al") _),
            "out-immediate" => asm!("out 0x80, al", in("al") 0_u8),
            "in-immediate" => asm!("in al, 0x60", out("al") _),
            "out-string" => asm!("outsb", in("dx") 0x80_u16, inout("rsi") &raw const bytes => _),
            "in-string" => asm!("insb", in("dx") 0x60_u16, inout("rdi") &raw mut bytes => _),
            other => failure(format_args!("there is no '{other}'")),
        }
    }
    failure("the access went through")
}
