//! Hypercalls and port I/O without the bindings' checks.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::asm;

use guest_bindings::abi::hypercall::Number;
use guest_bindings::abi::x86_64::HYPERCALL_PORT;

/// Executes a 32-bit `out`.
///
/// # Safety
///
/// If the `out` is a hypercall, the hypercall's accesses to the argument and its buffers must be
/// valid, or the tender must reject the hypercall.
pub unsafe fn out32(port: u16, value: u32) {
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) }
}

/// Makes a hypercall with the argument at the guest address `argument`.
///
/// # Safety
///
/// The requirements of [`out32`] apply.
pub unsafe fn hypercall(number: Number, argument: u32) {
    // SAFETY: Guaranteed by the caller.
    unsafe { out32(HYPERCALL_PORT + number as u16, argument) }
}

/// Makes a hypercall with an argument structure. The tender stores the results in the structure.
///
/// # Safety
///
/// The requirements of [`out32`] apply.
pub unsafe fn hypercall_with<T>(number: Number, argument: &mut T) {
    // SAFETY: Guaranteed by the caller.
    unsafe { hypercall(number, (&raw mut *argument).expose_provenance() as u32) }
}
