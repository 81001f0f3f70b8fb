//! Stacks for exception handlers.

use core::cell::UnsafeCell;

/// Size of a stack in bytes. A handler formats and prints; unoptimized builds need the most stack.
const STACK_SIZE: usize = 16 << 10;

/// A stack that grows down from its end, which is aligned to 16 bytes. The bytes after the end
/// exist because the tender may read past a trap frame at the end of the stack.
#[repr(C, align(16))]
pub(super) struct Stack {
    bytes: UnsafeCell<[u8; STACK_SIZE]>,
    behind: [u8; hvt_abi::hypercall::HALT_COOKIE_SIZE as usize],
}

impl Stack {
    /// Creates an empty stack.
    pub(super) const fn new() -> Self {
        Self { bytes: UnsafeCell::new([0; STACK_SIZE]), behind: [0; _] }
    }

    /// Returns the address of the end of the stack, the initial stack pointer.
    pub(super) fn top(&self) -> u64 {
        self.bytes.get().expose_provenance() as u64 + STACK_SIZE as u64
    }
}
