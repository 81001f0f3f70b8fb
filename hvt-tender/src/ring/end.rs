//! Tender's end of the ring's indices, and the sleep protocol that misses no submission.
//!
//! Generic over the atomic words, so that the tests can use loom to try every order of memory
//! accesses.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use hvt_abi::ring::{MASK, SIZE};

use super::RingError;

/// 32-bit atomic word that both ends share.
pub(super) trait Word {
    fn load(&self, ordering: Ordering) -> u32;
    fn store(&self, value: u32, ordering: Ordering);
    /// Executes a sequentially consistent fence.
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

/// Words of the ring's two cache lines, named as in [`Ring`](hvt_abi::ring::Ring).
pub(super) struct Lines<'r, W> {
    /// Written by the guest.
    pub(super) ent_tail: &'r W,
    /// Written by the guest.
    pub(super) com_head: &'r W,
    /// Written by the tender.
    pub(super) ent_head: &'r W,
    /// Written by the tender.
    pub(super) com_tail: &'r W,
    /// Written by the tender.
    pub(super) needs_kick: &'r W,
}

/// Indices of the tender's end. The tender writes its words in the ring from these indices and
/// never reads them back, because a guest could have changed them.
#[derive(Debug, Default)]
pub(super) struct Progress {
    taken: u32,
    committed: u32,
}

impl Progress {
    /// Returns the slot of the next submission, if any.
    ///
    /// # Errors
    /// Returns [`RingError::Submissions`] if the guest claims more submissions than the ring has
    /// slots.
    pub(super) fn next<W: Word>(&self, lines: &Lines<'_, W>) -> Result<Option<usize>, RingError> {
        // Acquire: the submissions that the guest wrote before it moved its tail are visible from
        // here on.
        let waiting = lines.ent_tail.load(Ordering::Acquire).wrapping_sub(self.taken);
        match waiting {
            0 => Ok(None),
            _ if waiting as usize > SIZE => Err(RingError::Submissions(waiting)),
            _ => Ok(Some((self.taken & MASK) as usize)),
        }
    }

    /// Returns the slot of the submission served last to the guest.
    pub(super) fn taken<W: Word>(&mut self, lines: &Lines<'_, W>) {
        self.taken = self.taken.wrapping_add(1);
        lines.ent_head.store(self.taken, Ordering::Release);
    }

    /// Returns the slot for the next commit.
    ///
    /// # Errors
    /// Returns [`RingError::Commits`] if all slots hold commits that the guest has not taken, or if
    /// the guest's index is invalid.
    pub(super) fn commit_slot<W: Word>(&self, lines: &Lines<'_, W>) -> Result<usize, RingError> {
        let left = self.committed.wrapping_sub(lines.com_head.load(Ordering::Acquire));
        if left as usize >= SIZE { Err(RingError::Commits(left)) } else { Ok((self.committed & MASK) as usize) }
    }

    /// Publishes the commit written last.
    pub(super) fn committed<W: Word>(&mut self, lines: &Lines<'_, W>) {
        self.committed = self.committed.wrapping_add(1);
        lines.com_tail.store(self.committed, Ordering::Release);
    }

    /// Requests a kick with the guest's next submission. Returns whether to wait for it: false if a
    /// submission has arrived meanwhile, because the guest may not have seen the request.
    ///
    /// # Errors
    /// Returns the errors of [`next`](Self::next).
    pub(super) fn ask_for_kick<W: Word>(&self, lines: &Lines<'_, W>) -> Result<bool, RingError> {
        lines.needs_kick.store(1, Ordering::Relaxed);
        // Either this thread sees the guest's new tail, or the guest, which has a fence between its
        // two accesses, sees the request.
        W::fence();
        Ok(self.next(lines)?.is_none())
    }

    /// Clears the request for a kick.
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

    /// Submits as a guest does by the ABI: the data, the tail, a fence, and a kick if the tender
    /// requests one. A `sparing` guest omits the kick while the submission of its last kick, number
    /// `kicked`, has not been taken.
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

    /// Loom tries every interleaving with up to two preemptions, and every value that a load may
    /// see. A lost kick leaves the tender's end asleep forever, which loom reports as a deadlock.
    /// Data that is not visible yet fails the assertion.
    #[test]
    fn no_submission_is_missed_or_seen_too_early() {
        submissions_arrive(false);
    }

    /// The guest bindings of this project are `sparing`.
    #[test]
    fn no_submission_is_missed_with_sparing_kicks() {
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
