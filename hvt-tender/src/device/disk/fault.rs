//! Injected faults of a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Faults of a disk, and the counters that trigger them.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Number of reads so far.
    pub(super) reads: u64,
    /// Number of writes so far.
    pub(super) writes: u64,
    /// Numbers of the reads that fail, starting at 1.
    pub(super) failing_reads: BTreeSet<u64>,
    /// Results of the writes with these numbers, starting at 1.
    pub(super) torn_writes: BTreeMap<u64, Write>,
    /// Extra delay of every read and write.
    pub(super) delay: Duration,
    /// Set after a power failure: every access fails.
    pub(super) dead: bool,
}

/// Result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// All bytes are written.
    Whole,
    /// This many bytes are written, then the power fails.
    Torn(u64),
    /// No bytes are written.
    Refused,
}

impl Faults {
    /// Counts a read, and returns whether it succeeds.
    pub(super) fn next_read(&mut self) -> bool {
        self.reads += 1;
        !self.dead && !self.failing_reads.contains(&self.reads)
    }

    /// Counts a write, and returns its result.
    pub(super) fn next_write(&mut self) -> Write {
        self.writes += 1;
        if self.dead {
            return Write::Refused;
        }
        let write = self.torn_writes.get(&self.writes).copied().unwrap_or(Write::Whole);
        self.dead = matches!(write, Write::Torn(_));
        write
    }

    /// Removes all faults. The counters stay.
    pub(super) fn repair(&mut self) {
        *self = Self { reads: self.reads, writes: self.writes, ..Self::default() };
    }
}
