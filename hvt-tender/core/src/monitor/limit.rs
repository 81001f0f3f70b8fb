//! What a guest has used too much of.

use core::fmt;

/// Which of its limits a guest has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Wall time.
    WallTime,
    /// CPU time.
    CpuTime,
    /// Console output.
    Console,
    /// Memory.
    Memory,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WallTime => "the guest ran longer than it may",
            Self::CpuTime => "the guest used more CPU time than it may",
            Self::Console => "the guest wrote more to its console than it may",
            Self::Memory => "the guest used more memory than it may",
        })
    }
}
