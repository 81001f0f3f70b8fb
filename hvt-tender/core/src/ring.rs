//! Violations of the network ring's protocol.

use hvt_abi::ring::BUFFER_SIZE;

use crate::memory::Violation;

/// Violation of the ring protocol by the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The submission index is ahead by more entries than the ring holds.
    #[error("{0} entries submitted at once, more than the ring holds")]
    Submissions(u32),
    /// The guest does not take its commits, or has taken commits that were never made.
    #[error("commit index out of range: {0} commits left")]
    Commits(u32),
    /// The operation of a submission is unknown.
    #[error("unknown operation {0}")]
    Operation(u32),
    /// A submission names a buffer longer than the ring allows.
    #[error("a buffer of {0} bytes exceeds {BUFFER_SIZE}")]
    Length(u32),
    /// A submission names memory that the guest may not access in this way.
    #[error(transparent)]
    Pointer(#[from] Violation),
}
