//! Frequency of the cycle counter, which is the guest's monotonic clock: the TSC of x86_64, CNTVCT_EL0 of aarch64.

use std::fmt;

use super::BackendError;
pub(crate) use super::arch::frequency::Search;

/// Frequency of a cycle counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frequency {
    /// Frequency in Hz.
    pub hz: u64,
    /// Source of the value.
    pub source: Source,
}

/// Source of a [`Frequency`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// KVM: `KVM_GET_TSC_KHZ`.
    Kvm,
    /// The CPU: leaf 15H of CPUID (SDM volume 2; volume 3, 20.7.3), or CNTFRQ_EL0 (Arm ARM, D11.1.2).
    Cpu,
    /// The hypervisor of this system: leaf 4000_0010H of CPUID.
    Hypervisor,
    /// Measured against the kernel's clock.
    Clock,
    /// This tender, which implements the counter.
    Virtual,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Cpu => "the CPU",
            Self::Hypervisor => "the hypervisor",
            Self::Clock => "the kernel's clock",
            Self::Virtual => "its virtual time",
        })
    }
}

/// Finds the frequency of the counter. Takes 0.1 ms if it must be measured; a [`Search`] hides this
/// time.
///
/// # Errors
/// Returns [`BackendError`] if the counter cannot be measured.
pub(crate) fn cycle_frequency() -> Result<Frequency, BackendError> {
    Search::begin().finish()
}
