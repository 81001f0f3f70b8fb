//! Conditions on the arguments of a system call.

/// Condition on an argument of a system call. 32-bit arguments are compared as 32 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition {
    /// Index of the argument, starting at 0.
    pub(super) argument: u8,
    pub(super) operation: Operation,
    pub(super) value: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Operation {
    Equal,
    AtLeast,
    AtMost,
    /// The argument's bits in this mask equal the value.
    Bits(u32),
}

impl Condition {
    /// The argument equals `value`.
    #[must_use]
    pub fn equal(argument: u8, value: u32) -> Self {
        Self { argument, operation: Operation::Equal, value }
    }

    /// The argument is at least `value`.
    #[must_use]
    pub fn at_least(argument: u8, value: u32) -> Self {
        Self { argument, operation: Operation::AtLeast, value }
    }

    /// The argument equals `value` in all bits except `ignored`.
    #[must_use]
    pub fn equal_but_for(argument: u8, value: u32, ignored: u32) -> Self {
        Self { argument, operation: Operation::Bits(!ignored), value }
    }

    /// All of `bits` are set in the argument.
    #[must_use]
    pub fn set(argument: u8, bits: u32) -> Self {
        Self { argument, operation: Operation::Bits(bits), value: bits }
    }

    /// None of `bits` are set in the argument.
    #[must_use]
    pub fn clear(argument: u8, bits: u32) -> Self {
        Self { argument, operation: Operation::Bits(bits), value: 0 }
    }

    /// The argument is at most `value`.
    pub(super) fn at_most(argument: u8, value: u32) -> Self {
        Self { argument, operation: Operation::AtMost, value }
    }
}
