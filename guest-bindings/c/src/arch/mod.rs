//! Architecture-dependent code. Each module exports the same names.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::*;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;

/// Number of attempts before the CPU's random number generator is considered defective (Intel SDM
/// volume 1, 7.3.17.1).
const ATTEMPTS: usize = 10;
