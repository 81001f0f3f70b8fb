//! Memory accesses that may be forbidden. Each that goes through comes back.

use core::arch::asm;

/// Code that comes back, wherever in it one starts: `ret`, again and again.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct Returns([u8; 16]);

impl Returns {
    /// It.
    pub const HERE: Self = Self([0xc3; 16]);
}

/// Reads eight bytes.
///
/// # Safety
///
/// The address is readable, or the access ends the guest.
pub unsafe fn read(address: usize) {
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _, options(nostack, preserves_flags)) }
}

/// Writes one byte, a `ret`.
///
/// # Safety
///
/// The address is writable, or the access ends the guest.
pub unsafe fn write(address: usize) {
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("mov byte ptr [{0}], 0xc3", in(reg) address, options(nostack, preserves_flags)) }
}

/// Calls the address, where a `ret` lies.
///
/// # Safety
///
/// The address holds a `ret` that may be executed, or the access ends the guest.
pub unsafe fn run(address: usize) {
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("call {0}", in(reg) address, clobber_abi("C")) }
}
