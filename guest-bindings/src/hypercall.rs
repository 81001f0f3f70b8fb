//! Hypercalls with their argument structures.

use hvt_abi::Gpa;
use hvt_abi::hypercall::Number;
use zerocopy::{FromBytes, IntoBytes};

use crate::arch;

/// Makes a hypercall; its results are in `argument` afterwards.
///
/// # Safety
///
/// `argument` is of the type that `number` calls for. Every buffer it names is valid for what the hypercall does with
/// it: reads, or writes that break no rule of Rust's.
pub(crate) unsafe fn call<T: FromBytes + IntoBytes>(number: Number, argument: &mut T) {
    // Guest memory ends at 4 GiB, so an address always fits into 32 bits.
    let address = (&raw mut *argument).expose_provenance() as u32;
    // SAFETY: The argument is a unique borrow and holds any bit pattern; the rest is the caller's promise.
    unsafe { arch::hypercall(number as u32, address) }
}

/// The guest address of a buffer that the tender reads.
pub(crate) fn reads(buffer: &[u8]) -> Gpa {
    Gpa(buffer.as_ptr().expose_provenance() as u64)
}

/// The guest address of a buffer that the tender writes.
pub(crate) fn writes(buffer: &mut [u8]) -> Gpa {
    Gpa(buffer.as_mut_ptr().expose_provenance() as u64)
}
