//! Architecture-dependent code. Each module exports the same names.

#[cfg(test)]
mod memory_tests;
#[cfg(not(test))]
mod stack;
// The report is plain text, which tests on any host can check.
#[cfg(any(test, target_arch = "aarch64"))]
mod aarch64_report;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::*;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;
