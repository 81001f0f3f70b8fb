//! Hypercalls with their argument structures.

#![expect(unsafe_code, reason = "hypercalls, and memory that the tender writes")]

use hvt_abi::Gpa;
use zerocopy::{FromBytes, IntoBytes};

use crate::arch;

/// Makes the hypercall with this [`Number`](hvt_abi::hypercall::Number). The tender stores the
/// results in `argument`.
///
/// # Safety
///
/// `argument` must have the type that the number requires. Every buffer in it must be valid for the
/// accesses of the hypercall: for reads, or for writes that do not violate the aliasing rules of
/// Rust.
pub(crate) unsafe fn call<const NUMBER: u32, T: FromBytes + IntoBytes>(argument: &mut T) {
    // Guest memory ends at 4 GiB, so an address always fits into 32 bits.
    let address = (&raw mut *argument).expose_provenance() as u32;
    // SAFETY: The argument is an exclusive reference to a type that permits any bit pattern. The
    // caller guarantees that the buffers are valid.
    unsafe { arch::hypercall::<NUMBER>(address) }
}

/// Returns the guest address of a buffer that the tender reads.
pub(crate) fn reads(buffer: &[u8]) -> Gpa {
    Gpa(buffer.as_ptr().expose_provenance() as u64)
}

/// Returns the guest address of a buffer that the tender writes.
pub(crate) fn writes(buffer: &mut [u8]) -> Gpa {
    Gpa(buffer.as_mut_ptr().expose_provenance() as u64)
}
