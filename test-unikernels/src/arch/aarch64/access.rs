//! Memory accesses that may be forbidden. A permitted access returns to the caller.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::asm;

/// Code that returns immediately from any entry point: a sequence of `ret` instructions.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct Returns([u32; 4]);

impl Returns {
    /// The only value.
    pub const HERE: Self = Self([0xd65f_03c0; 4]);
}

/// Reads eight bytes.
///
/// # Safety
///
/// The address must be readable, or the access must end the guest.
pub unsafe fn read(address: usize) {
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("ldr {0}, [{0}]", inout(reg) address => _, options(nostack, preserves_flags)) }
}

/// Writes four bytes, a `ret` instruction.
///
/// # Safety
///
/// The address must be writable, or the access must end the guest.
pub unsafe fn write(address: usize) {
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("str {:w}, [{}]", in(reg) 0xd65f_03c0_u32, in(reg) address, options(nostack, preserves_flags)) }
}

/// Calls the address of a `ret` instruction.
///
/// # Safety
///
/// The address must contain an executable `ret`, or the access must end the guest.
pub unsafe fn run(address: usize) {
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("blr {0}", in(reg) address, clobber_abi("C")) }
}
