//! Hypercalls and port I/O without the bindings' checks.

use core::arch::asm;

use guest_bindings::abi::hypercall::Number;
use guest_bindings::abi::x86_64::HYPERCALL_PORT;

/// A 32-bit `out`.
///
/// # Safety
///
/// Where it is a hypercall, its argument and what that points to may be accessed as the hypercall says; or the tender
/// refuses.
pub unsafe fn out32(port: u16, value: u32) {
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) }
}

/// Makes a hypercall with the argument at the guest address `argument`.
///
/// # Safety
///
/// As [`out32`].
pub unsafe fn hypercall(number: Number, argument: u32) {
    // SAFETY: Guaranteed by the caller.
    unsafe { out32(HYPERCALL_PORT + number as u16, argument) }
}

/// Makes a hypercall with an argument structure; its results are in there afterwards.
///
/// # Safety
///
/// As [`out32`].
pub unsafe fn hypercall_with<T>(number: Number, argument: &mut T) {
    // SAFETY: Guaranteed by the caller.
    unsafe { hypercall(number, (&raw mut *argument).expose_provenance() as u32) }
}
