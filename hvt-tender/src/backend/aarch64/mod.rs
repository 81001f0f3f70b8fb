//! aarch64: registers, frequency of the counter CNTVCT_EL0, and guests for tests of a debugger.

#[cfg(test)]
pub(crate) mod assembly;
#[cfg(test)]
pub(crate) mod conformance;
pub(crate) mod debug;
pub(crate) mod frequency;
