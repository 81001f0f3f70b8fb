//! Hypercalls and device memory without the bindings' checks.

#![expect(unsafe_code, reason = "instructions that the tests execute on purpose")]

use core::arch::asm;

use guest_bindings::abi::aarch64::{HYPERCALL_STRIDE, MMIO_BASE};
use guest_bindings::abi::hypercall::Number;

/// Makes a 32-bit store to device memory.
///
/// # Safety
///
/// If the store is a hypercall, the hypercall's accesses to the argument and its buffers must be
/// valid, or the tender must reject the hypercall.
pub unsafe fn store32(address: u64, value: u32) {
    // SAFETY: Guaranteed by the caller.
    unsafe { asm!("str {:w}, [{}]", in(reg) value, in(reg) address, options(nostack, preserves_flags)) }
}

/// Returns the address to which the argument of a hypercall is stored.
pub const fn address_of(number: Number) -> u64 {
    MMIO_BASE.0 + number as u64 * HYPERCALL_STRIDE
}

/// Makes a hypercall with the argument at the guest address `argument`.
///
/// # Safety
///
/// The requirements of [`store32`] apply.
pub unsafe fn hypercall(number: Number, argument: u32) {
    // SAFETY: Guaranteed by the caller.
    unsafe { store32(address_of(number), argument) }
}

/// Makes a hypercall with an argument structure. The tender stores the results in the structure.
///
/// # Safety
///
/// The requirements of [`store32`] apply.
pub unsafe fn hypercall_with<T>(number: Number, argument: &mut T) {
    // SAFETY: Guaranteed by the caller.
    unsafe { hypercall(number, (&raw mut *argument).expose_provenance() as u32) }
}
