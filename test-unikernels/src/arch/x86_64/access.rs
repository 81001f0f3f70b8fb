//! Memory accesses that may be forbidden. A permitted access returns to the caller.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::asm;

/// Code that returns immediately from any entry point: a sequence of `ret` instructions.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct Returns([u8; 16]);

impl Returns {
    /// The only value.
    pub const HERE: Self = Self([0xc3; 16]);
}

/// Reads eight bytes.
///
/// # Safety
///
/// The address must be readable, or the access must end the guest.
pub unsafe fn read(address: usize) {
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _, options(nostack, preserves_flags)) }
}

/// Writes one byte, a `ret` instruction.
///
/// # Safety
///
/// The address must be writable, or the access must end the guest.
pub unsafe fn write(address: usize) {
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("mov byte ptr [{0}], 0xc3", in(reg) address, options(nostack, preserves_flags)) }
}

/// Calls the address of a `ret` instruction.
///
/// # Safety
///
/// The address must contain an executable `ret`, or the access must end the guest.
pub unsafe fn run(address: usize) {
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("call {0}", in(reg) address, clobber_abi("C")) }
}
