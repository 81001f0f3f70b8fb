//! Violations of the network ring's protocol.

use hvt_abi::ring::BUFFER_SIZE;

use crate::memory::Violation;

/// What a guest did with its ring that it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// It says that it has submitted more than the ring holds.
    #[error("it submitted {0} entries at once, more than there are")]
    Submissions(u32),
    /// It does not take its commits, or says that it has taken some that were not made.
    #[error("it takes no commits, or more than were made: {0} are left")]
    Commits(u32),
    /// A submission asks for what there is not.
    #[error("there is no operation {0}")]
    Operation(u32),
    /// A submission names a buffer longer than goes through a ring.
    #[error("a buffer of {0} bytes is longer than {BUFFER_SIZE}")]
    Length(u32),
    /// A submission names memory that the guest may not access like that.
    #[error(transparent)]
    Pointer(#[from] Violation),
}
