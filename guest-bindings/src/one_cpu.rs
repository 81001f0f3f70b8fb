//! Statics of a program that has one CPU and no interrupts.

use core::ops::Deref;

/// Makes a static of what must not be shared between threads: a guest has one CPU and no interrupts, so nothing runs at
/// the same time as anything else.
#[derive(Debug)]
pub struct OneCpu<T>(T);

// SAFETY: A guest runs on one virtual CPU, interrupts are never delivered, and an exception handler never returns to
// what it interrupted. So no two accesses ever overlap, except that a handler may find a value half written; handlers
// therefore read nothing of this type that changes after the start.
unsafe impl<T> Sync for OneCpu<T> {}

impl<T> OneCpu<T> {
    /// A static's value.
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
