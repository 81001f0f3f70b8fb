//! Conditions on the arguments of a system call.

/// What an argument of a system call must be. What the kernel takes for 32 bits is compared as 32 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition {
    /// Which argument, from 0 on.
    pub(super) argument: u8,
    pub(super) operation: Operation,
    pub(super) value: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Operation {
    Equal,
    AtLeast,
    AtMost,
    /// These bits of it are the value.
    Bits(u32),
}

impl Condition {
    /// It is `value`.
    #[must_use]
    pub fn equal(argument: u8, value: u32) -> Self {
        Self { argument, operation: Operation::Equal, value }
    }

    /// It is not below `value`.
    #[must_use]
    pub fn at_least(argument: u8, value: u32) -> Self {
        Self { argument, operation: Operation::AtLeast, value }
    }

    /// It is `value`, where the bits of `ignored` are not looked at.
    #[must_use]
    pub fn equal_but_for(argument: u8, value: u32, ignored: u32) -> Self {
        Self { argument, operation: Operation::Bits(!ignored), value }
    }

    /// All of `bits` are set in it.
    #[must_use]
    pub fn set(argument: u8, bits: u32) -> Self {
        Self { argument, operation: Operation::Bits(bits), value: bits }
    }

    /// None of `bits` are set in it.
    #[must_use]
    pub fn clear(argument: u8, bits: u32) -> Self {
        Self { argument, operation: Operation::Bits(bits), value: 0 }
    }

    /// It is not above `value`.
    pub(super) fn at_most(argument: u8, value: u32) -> Self {
        Self { argument, operation: Operation::AtMost, value }
    }
}
