//! The tender's end of the ring's indices, and how it goes to sleep without missing a submission.
//!
//! Generic over the atomic words, so that the tests try every order in which two CPUs can see them.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use hvt_abi::ring::{MASK, SIZE};

use super::RingError;

/// A 32-bit word that both ends see.
pub(super) trait Word {
    fn load(&self, ordering: Ordering) -> u32;
    fn store(&self, value: u32, ordering: Ordering);
    /// A sequentially consistent fence.
    fn fence();
}

impl Word for AtomicU32 {
    fn load(&self, ordering: Ordering) -> u32 {
        self.load(ordering)
    }

    fn store(&self, value: u32, ordering: Ordering) {
        self.store(value, ordering);
    }

    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// The words of the ring's two lines, as [`Ring`](hvt_abi::ring::Ring) names them.
pub(super) struct Lines<'r, W> {
    /// The guest's.
    pub(super) ent_tail: &'r W,
    /// The guest's.
    pub(super) com_head: &'r W,
    /// The tender's.
    pub(super) ent_head: &'r W,
    /// The tender's.
    pub(super) com_tail: &'r W,
    /// The tender's.
    pub(super) needs_kick: &'r W,
}

/// How far the tender's end is. The tender's words in the ring are written from this and never read back: a guest could
/// have changed them.
#[derive(Debug, Default)]
pub(super) struct Progress {
    taken: u32,
    committed: u32,
}

impl Progress {
    /// Slot of the next submission, if there is one.
    pub(super) fn next<W: Word>(&self, lines: &Lines<'_, W>) -> Result<Option<usize>, RingError> {
        // What the guest wrote before it moved its tail is seen from here on.
        let waiting = lines.ent_tail.load(Ordering::Acquire).wrapping_sub(self.taken);
        match waiting {
            0 => Ok(None),
            _ if waiting as usize > SIZE => Err(RingError::Submissions(waiting)),
            _ => Ok(Some((self.taken & MASK) as usize)),
        }
    }

    /// Gives the slot of the submission that has just been served back to the guest.
    pub(super) fn taken<W: Word>(&mut self, lines: &Lines<'_, W>) {
        self.taken = self.taken.wrapping_add(1);
        lines.ent_head.store(self.taken, Ordering::Release);
    }

    /// Slot for the next commit.
    pub(super) fn commit_slot<W: Word>(&self, lines: &Lines<'_, W>) -> Result<usize, RingError> {
        let left = self.committed.wrapping_sub(lines.com_head.load(Ordering::Acquire));
        if left as usize >= SIZE { Err(RingError::Commits(left)) } else { Ok((self.committed & MASK) as usize) }
    }

    /// Shows the guest the commit that has just been written.
    pub(super) fn committed<W: Word>(&mut self, lines: &Lines<'_, W>) {
        self.committed = self.committed.wrapping_add(1);
        lines.com_tail.store(self.committed, Ordering::Release);
    }

    /// Asks the guest for a kick at its next submission. Whether to wait for it: not where a submission came meanwhile,
    /// whose guest may not have seen the wish.
    pub(super) fn ask_for_kick<W: Word>(&self, lines: &Lines<'_, W>) -> Result<bool, RingError> {
        lines.needs_kick.store(1, Ordering::Relaxed);
        // Either this sees the guest's tail, or the guest, which has a fence between its own two accesses, sees the wish.
        W::fence();
        Ok(self.next(lines)?.is_none())
    }

    /// Tells the guest that it need not kick.
    pub(super) fn awake<W: Word>(lines: &Lines<'_, W>) {
        lines.needs_kick.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use loom::sync::Arc;
    use loom::sync::Notify;
    use loom::sync::atomic::AtomicU32 as LoomWord;

    impl Word for LoomWord {
        fn load(&self, ordering: Ordering) -> u32 {
            self.load(ordering)
        }

        fn store(&self, value: u32, ordering: Ordering) {
            self.store(value, ordering);
        }

        fn fence() {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    #[derive(Default)]
    struct Words<W> {
        ent_tail: W,
        com_head: W,
        ent_head: W,
        com_tail: W,
        needs_kick: W,
    }

    impl<W> Words<W> {
        fn lines(&self) -> Lines<'_, W> {
            let Self { ent_tail, com_head, ent_head, com_tail, needs_kick } = self;
            Lines { ent_tail, com_head, ent_head, com_tail, needs_kick }
        }
    }

    /// What a guest does to submit, as the ABI says it: the data, its tail, a fence, and a kick if one is wanted. One that
    /// is `sparing` leaves that to its last kick, at `kicked` submissions, while what it was for has not been taken.
    fn submit(
        words: &Words<LoomWord>,
        slots: &[LoomWord],
        number: u32,
        doorbell: &Notify,
        kicked: &mut u32,
        sparing: bool,
    ) {
        slots[number as usize].store(number + 1, Ordering::Relaxed);
        words.ent_tail.store(number + 1, Ordering::Release);
        LoomWord::fence();
        let wanted = words.needs_kick.load(Ordering::Relaxed) != 0;
        if wanted && (!sparing || words.ent_head.load(Ordering::Acquire) >= *kicked) {
            *kicked = number + 1;
            doorbell.notify();
        }
    }

    /// Loom tries every interleaving with up to two preemptions, and every value that a load may see. A kick that gets lost leaves the tender's end
    /// asleep for ever, which loom reports; data that is not there yet fails the assertion.
    #[test]
    fn no_submission_is_missed_or_seen_too_early() {
        submissions_arrive(false);
    }

    /// Guests of this project's bindings do.
    #[test]
    fn nor_where_a_guest_spares_kicks() {
        submissions_arrive(true);
    }

    fn submissions_arrive(sparing: bool) {
        const SUBMISSIONS: u32 = 2;
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(move || {
            let words: Arc<Words<LoomWord>> = Arc::default();
            let slots: Arc<[LoomWord; SUBMISSIONS as usize]> = Arc::default();
            let doorbell = Arc::new(Notify::new());
            let guest = {
                let (words, slots, doorbell) = (words.clone(), slots.clone(), doorbell.clone());
                loom::thread::spawn(move || {
                    let mut kicked = 0;
                    for number in 0..SUBMISSIONS {
                        submit(&words, slots.as_slice(), number, &doorbell, &mut kicked, sparing);
                    }
                })
            };
            let lines = words.lines();
            let mut progress = Progress::default();
            while progress.taken < SUBMISSIONS {
                if let Some(slot) = progress.next(&lines).unwrap() {
                    assert_eq!(slots[slot].load(Ordering::Relaxed), progress.taken + 1);
                    progress.taken(&lines);
                } else {
                    if progress.ask_for_kick(&lines).unwrap() {
                        doorbell.wait();
                    }
                    Progress::awake(&lines);
                }
            }
            guest.join().unwrap();
        });
    }

    #[test]
    fn indices_wrap_around() {
        let words = Words { ent_tail: AtomicU32::new(1), com_head: AtomicU32::new(u32::MAX), ..Words::default() };
        let lines = words.lines();
        let mut progress = Progress { taken: u32::MAX, committed: u32::MAX };
        assert_eq!(progress.next(&lines), Ok(Some(SIZE - 1)));
        progress.taken(&lines);
        assert_eq!(words.ent_head.load(Ordering::Relaxed), 0);
        assert_eq!(progress.next(&lines), Ok(Some(0)));
        progress.taken(&lines);
        assert_eq!(progress.next(&lines), Ok(None));
        assert_eq!(progress.commit_slot(&lines), Ok(SIZE - 1));
        progress.committed(&lines);
        assert_eq!((words.com_tail.load(Ordering::Relaxed), progress.commit_slot(&lines)), (0, Ok(0)));
    }

    #[test]
    fn indices_that_cannot_be_are_refused() {
        let words: Words<AtomicU32> = Words::default();
        let lines = words.lines();
        let progress = Progress { taken: 5, committed: 5 };
        for tail in [4, 0, 5 + SIZE as u32 + 1, 0x8000_0000, u32::MAX] {
            words.ent_tail.store(tail, Ordering::Relaxed);
            assert_eq!(progress.next(&lines), Err(RingError::Submissions(tail.wrapping_sub(5))));
            assert_eq!(progress.ask_for_kick(&lines), Err(RingError::Submissions(tail.wrapping_sub(5))));
        }
        words.ent_tail.store(5 + SIZE as u32, Ordering::Relaxed);
        assert_eq!(progress.next(&lines), Ok(Some(5)));
        for head in [6, 5_u32.wrapping_sub(SIZE as u32), 0x8000_0000] {
            words.com_head.store(head, Ordering::Relaxed);
            assert_eq!(progress.commit_slot(&lines), Err(RingError::Commits(5_u32.wrapping_sub(head))));
        }
    }
}
