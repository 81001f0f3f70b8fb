//! Limits on the resources of a guest.

use core::fmt;

/// Limit that a guest exceeded.
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
            Self::WallTime => "the guest exceeded its limit of wall time",
            Self::CpuTime => "the guest exceeded its limit of CPU time",
            Self::Console => "the guest exceeded its limit of console output",
            Self::Memory => "the guest exceeded its limit of memory",
        })
    }
}
