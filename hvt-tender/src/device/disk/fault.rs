//! What a disk does wrong, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The faults of a disk, and the counters that say when it is their turn.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Reads so far.
    pub(super) reads: u64,
    /// Writes so far.
    pub(super) writes: u64,
    /// Numbers of the reads that fail, from 1.
    pub(super) failing_reads: BTreeSet<u64>,
    /// What becomes of the writes of these numbers, from 1.
    pub(super) torn_writes: BTreeMap<u64, Write>,
    /// How much longer everything takes.
    pub(super) delay: Duration,
    /// The power is gone.
    pub(super) dead: bool,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// It is written.
    Whole,
    /// So many bytes of it are, then the power goes.
    Torn(u64),
    /// Nothing of it is.
    Refused,
}

impl Faults {
    /// Whether the next read succeeds.
    pub(super) fn next_read(&mut self) -> bool {
        self.reads += 1;
        !self.dead && !self.failing_reads.contains(&self.reads)
    }

    /// What becomes of the next write.
    pub(super) fn next_write(&mut self) -> Write {
        self.writes += 1;
        if self.dead {
            return Write::Refused;
        }
        let write = self.torn_writes.get(&self.writes).copied().unwrap_or(Write::Whole);
        self.dead = matches!(write, Write::Torn(_));
        write
    }

    /// Forgets everything but the counters.
    pub(super) fn repair(&mut self) {
        *self = Self { reads: self.reads, writes: self.writes, ..Self::default() };
    }
}
