//! The ring where it lies, in guest memory.

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
    /// The ring at `place`, empty, where the memory is zero. `None` where it does not lie in memory, page aligned.
    pub(super) fn new(memory: MappedMemory, place: Gpa) -> Option<Self> {
        let range = GuestRange::new(place, size_of::<Ring>() as u64)?;
        let inside = memory.chunk(range)?.len() == size_of::<Ring>();
        let queue = Self { memory, range, progress: Progress::default() };
        (inside && place.is_aligned(hvt_abi::PAGE_SIZE)).then_some(queue)
    }

    /// Guest memory, all of it.
    pub(super) fn memory(&self) -> &MappedMemory {
        &self.memory
    }

    /// A copy of the next submission, if there is one.
    pub(super) fn next(&self) -> Result<Option<Entry>, RingError> {
        let Some(slot) = self.progress.next(&self.lines())? else { return Ok(None) };
        let mut entry = Entry::new_zeroed();
        let offset = offset_of!(Ring, entries) + slot * size_of::<Entry>();
        let _ = self.ring().skip(offset).read(entry.as_mut_bytes());
        Ok(Some(entry))
    }

    /// The submission has been served.
    pub(super) fn taken(&mut self) {
        let Self { memory, range, progress } = self;
        progress.taken(&lines(memory, *range));
    }

    /// Answers a submission.
    pub(super) fn commit(&mut self, commit: Commit) -> Result<(), RingError> {
        let slot = self.progress.commit_slot(&self.lines())?;
        let offset = offset_of!(Ring, commits) + slot * size_of::<Commit>();
        let _ = self.ring().skip(offset).write(commit.as_bytes());
        let Self { memory, range, progress } = self;
        progress.committed(&lines(memory, *range));
        Ok(())
    }

    /// As [`Progress::ask_for_kick`].
    pub(super) fn ask_for_kick(&self) -> Result<bool, RingError> {
        self.progress.ask_for_kick(&self.lines())
    }

    /// As [`Progress::awake`].
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
    // `new` has found it there, and memory does not shrink.
    memory.chunk(range).expect("the ring lies in memory")
}

fn lines(memory: &MappedMemory, range: GuestRange) -> Lines<'_, AtomicU32> {
    let ring = ring(memory, range);
    let word = |offset| {
        // SAFETY: the word lies in the ring, which begins at a page and is mapped as long as `memory` lives. In this
        // process nothing but these atomics touches it; the guest may write it like any other CPU.
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
