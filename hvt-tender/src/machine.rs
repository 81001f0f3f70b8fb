//! Facts about the machine, for the tests and benchmarks of this package.

use crate::BackendError;
use crate::backend::{auto, frequency};

/// Returns whether KVM runs guests at full speed here.
#[must_use]
pub fn has_fast_kvm() -> bool {
    auto::is_fast(crate::BackendChoice::Kvm)
}

/// Frequency of the guest's cycle counter in Hz.
///
/// # Errors
/// Returns [`BackendError`] if the counter cannot be measured.
pub fn cycle_frequency() -> Result<u64, BackendError> {
    frequency::cycle_frequency().map(|found| found.hz)
}
