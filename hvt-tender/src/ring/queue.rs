//! Ring in guest memory.

#![expect(unsafe_code, reason = "memory that the guest changes at any time")]

use std::mem::offset_of;
use std::sync::atomic::AtomicU32;

use hvt_abi::ring::{Commit, Entry, Ring};
use hvt_abi::{Gpa, GuestRange};
use zerocopy::{FromZeros, IntoBytes};

use super::RingError;
use super::end::{Lines, Progress};
use crate::memory::{Chunk, GuestMemory, MappedMemory};

/// Submissions and commits in a guest's memory.
pub(super) struct Queue {
    memory: MappedMemory,
    range: GuestRange,
    progress: Progress,
}

impl Queue {
    /// Creates the queue of the ring at `place`, which is empty if the memory is zero. Returns
    /// `None` if `place` is not page-aligned or the ring does not lie in guest memory.
    pub(super) fn new(memory: MappedMemory, place: Gpa) -> Option<Self> {
        let range = GuestRange::new(place, size_of::<Ring>() as u64)?;
        let inside = memory.chunk(range)?.len() == size_of::<Ring>();
        let queue = Self { memory, range, progress: Progress::default() };
        (inside && place.is_aligned(hvt_abi::PAGE_SIZE)).then_some(queue)
    }

    /// Returns the whole guest memory.
    pub(super) fn memory(&self) -> &MappedMemory {
        &self.memory
    }

    /// Returns a copy of the next submission, if any.
    pub(super) fn next(&self) -> Result<Option<Entry>, RingError> {
        let Some(slot) = self.progress.next(&self.lines())? else { return Ok(None) };
        let mut entry = Entry::new_zeroed();
        let offset = offset_of!(Ring, entries) + slot * size_of::<Entry>();
        let _ = self.ring().skip(offset).read(entry.as_mut_bytes());
        Ok(Some(entry))
    }

    /// Returns the slot of the submission served last to the guest.
    pub(super) fn taken(&mut self) {
        let Self { memory, range, progress } = self;
        progress.taken(&lines(memory, *range));
    }

    /// Writes and publishes a commit.
    pub(super) fn commit(&mut self, commit: Commit) -> Result<(), RingError> {
        let slot = self.progress.commit_slot(&self.lines())?;
        let offset = offset_of!(Ring, commits) + slot * size_of::<Commit>();
        let _ = self.ring().skip(offset).write(commit.as_bytes());
        let Self { memory, range, progress } = self;
        progress.committed(&lines(memory, *range));
        Ok(())
    }

    /// Calls [`Progress::ask_for_kick`].
    pub(super) fn ask_for_kick(&self) -> Result<bool, RingError> {
        self.progress.ask_for_kick(&self.lines())
    }

    /// Calls [`Progress::awake`].
    pub(super) fn awake(&self) {
        Progress::awake(&self.lines());
    }

    fn ring(&self) -> Chunk<'_> {
        ring(&self.memory, self.range)
    }

    fn lines(&self) -> Lines<'_, AtomicU32> {
        lines(&self.memory, self.range)
    }
}

fn ring(memory: &MappedMemory, range: GuestRange) -> Chunk<'_> {
    // Checked by `new`; guest memory does not shrink.
    memory.chunk(range).expect("ring lies in guest memory")
}

fn lines(memory: &MappedMemory, range: GuestRange) -> Lines<'_, AtomicU32> {
    let ring = ring(memory, range);
    let word = |offset| {
        // SAFETY: the word lies in the ring, which is page-aligned and mapped as long as `memory`
        // lives. In this process, only these atomics access it; the guest may write it like any
        // other CPU.
        unsafe { AtomicU32::from_ptr(ring.skip(offset).as_ptr().cast()) }
    };
    Lines {
        ent_tail: word(offset_of!(Ring, ent_tail)),
        com_head: word(offset_of!(Ring, com_head)),
        ent_head: word(offset_of!(Ring, ent_head)),
        com_tail: word(offset_of!(Ring, com_tail)),
        needs_kick: word(offset_of!(Ring, needs_kick)),
    }
}
