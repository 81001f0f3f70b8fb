//! Stacks for exception handlers.

use core::cell::UnsafeCell;

/// Bytes of a stack. A handler formats and prints; an unoptimized build needs most.
const STACK_SIZE: usize = 16 << 10;

/// A stack that grows down from its end, which is aligned to 16. Behind the end lie bytes that the tender may read along
/// with a trap frame at the end.
#[repr(C, align(16))]
pub(super) struct Stack {
    bytes: UnsafeCell<[u8; STACK_SIZE]>,
    behind: [u8; hvt_abi::hypercall::HALT_COOKIE_SIZE as usize],
}

impl Stack {
    /// A stack with nothing on it.
    pub(super) const fn new() -> Self {
        Self { bytes: UnsafeCell::new([0; STACK_SIZE]), behind: [0; _] }
    }

    /// Its end, where the CPU starts.
    pub(super) fn top(&self) -> u64 {
        self.bytes.get().expose_provenance() as u64 + STACK_SIZE as u64
    }
}
