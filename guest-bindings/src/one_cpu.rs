//! Statics of a program that has one CPU and no interrupts.

#![expect(unsafe_code, reason = "hypercalls, and memory that the tender writes")]

use core::ops::Deref;

/// Makes a value usable as a static although it is not `Sync`. A guest has one CPU and no
/// interrupts, so accesses to the static never run in parallel.
#[derive(Debug)]
pub struct OneCpu<T>(T);

// SAFETY: A guest runs on one virtual CPU, interrupts are never delivered, and an exception handler
// never returns to the interrupted code. Accesses therefore never overlap, with one exception: a
// handler may observe a partially written value. Handlers therefore do not read values of this type
// that change after the start.
unsafe impl<T> Sync for OneCpu<T> {}

impl<T> OneCpu<T> {
    /// Wraps the value of a static.
    pub const fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T> Deref for OneCpu<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
