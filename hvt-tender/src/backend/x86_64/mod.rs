//! x86_64: registers, frequency of the time-stamp counter, and guests for tests of a debugger.

#[cfg(test)]
pub(crate) mod assembly;
#[cfg(test)]
pub(crate) mod conformance;
pub(crate) mod debug;
pub(crate) mod frequency;
