//! Decision to spin or to sleep during a hand-over.
//!
//! Spinning saves a wake-up if the other side hands over soon, which requires that it runs on
//! another CPU at the same time. If all CPUs are busy, a spinning side takes CPU time from the side
//! that it waits for. The kernel does not report idle CPUs cheaply, so that each side is judged by
//! the results of its own waits: see [`Side`].

#![expect(unsafe_code, reason = "the system call sched_getaffinity")]

/// Spinning of tender and child.
#[derive(Debug)]
pub(super) struct Spin {
    /// CPUs on which this thread and the child may run.
    cpus: usize,
    tender: Side,
    child: Side,
    /// The child spins in its current wait.
    child_spins: bool,
}

/// Result of a wait that began with spinning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// The turn came while spinning.
    Spinning,
    /// Spinning ended without a turn.
    InVain,
    /// The spinning thread lost its CPU: another thread needs it.
    Preempted,
}

impl Spin {
    /// Creates the decision for this thread and a child with the same CPU affinity.
    pub(super) fn new() -> Self {
        // SAFETY: a set of CPUs is plain data, and all zeros are a valid value.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes at most the given number of bytes, the size of `set`.
        let failed = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } < 0;
        // SAFETY: counts the bits of `set`. If the affinity is unknown, a single CPU is assumed.
        let cpus = if failed { 1 } else { unsafe { libc::CPU_COUNT(&set) } };
        Self::on(usize::try_from(cpus).unwrap_or(1))
    }

    fn on(cpus: usize) -> Self {
        Self { cpus, tender: Side::new(), child: Side::new(), child_spins: false }
    }

    /// Returns true if there is a CPU to spin on while this guest and `others` run. Otherwise
    /// spinning takes the CPU from another guest.
    fn has_room_beside(&self, others: usize) -> bool {
        2 * (others + 1) <= self.cpus
    }

    /// Returns true if the tender spins at the start of its next wait, while `others` run.
    pub(super) fn tender_spins(&mut self, others: usize) -> bool {
        self.tender.may_spin() && self.has_room_beside(others)
    }

    /// Records the result of a wait for which [`tender_spins`](Self::tender_spins) returned true.
    pub(super) fn tender_waited(&mut self, result: Waited) {
        self.tender.record(result);
    }

    /// Returns true if the child spins at the start of its next wait, while `others` run.
    pub(super) fn child_spins(&mut self, others: usize) -> bool {
        self.child_spins = self.child.may_spin() && self.has_room_beside(others);
        self.child_spins
    }

    /// Records the end of the child's wait, before [`child_spins`](Self::child_spins) decides about
    /// the next wait.
    pub(super) fn child_waited(&mut self, slept: bool) {
        if std::mem::take(&mut self.child_spins) {
            self.child.record(if slept { Waited::InVain } else { Waited::Spinning });
        }
    }
}

/// One side's record of its waits.
///
/// Each wait that ends while spinning earns a point, up to [`POINTS_MAX`]. A fruitless spin costs
/// [`COST`] points. A side without points sleeps in a number of waits, and then spins once. A second
/// failure multiplies that number, so that fruitless spins take at most a small part of the time.
#[derive(Debug)]
struct Side {
    points: u32,
    /// Remaining waits without spinning.
    rest: u32,
    /// Length of the next rest.
    next: u32,
}

/// A fruitless spin costs about four times what a successful one saves.
const COST: u32 = 4;
/// Most points: a side that has spun successfully for long tolerates two consecutive failures.
const POINTS_MAX: u32 = 8;
/// Rest of a new side: the set-up of the child takes longer than any spin.
const REST_FIRST: u32 = 2;
/// Shortest rest of a side that has spun in vain.
const REST_MIN: u32 = 32;
/// Longest rest.
const REST_MAX: u32 = 1 << 13;

impl Side {
    fn new() -> Self {
        Self { points: 0, rest: REST_FIRST, next: REST_MIN }
    }

    fn may_spin(&mut self) -> bool {
        let rests = self.rest > 0;
        self.rest = self.rest.saturating_sub(1);
        !rests
    }

    fn record(&mut self, result: Waited) {
        match result {
            Waited::Spinning => {
                self.points = (self.points + 1).min(POINTS_MAX);
                if self.points == POINTS_MAX {
                    self.next = REST_MIN;
                }
            }
            Waited::InVain if self.points >= COST => self.points -= COST,
            Waited::InVain | Waited::Preempted => {
                self.points = 0;
                self.rest = self.next;
                self.next = (self.next * 4).min(REST_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of spins in the waits of a tender whose spins end with these results.
    fn spins(waits: u32, mut result: impl FnMut(u32) -> Waited) -> u32 {
        let mut spin = Spin::on(2);
        let mut spins = 0;
        for wait in 0..waits {
            if spin.tender_spins(0) {
                spins += 1;
                spin.tender_waited(result(wait));
            }
        }
        spins
    }

    #[test]
    fn a_tender_with_an_idle_cpu_spins_in_nearly_every_wait() {
        assert_eq!(spins(1000, |_| Waited::Spinning), 1000 - REST_FIRST);
        // A fruitless spin now and then, such as a hypercall that takes long.
        let spins = spins(1000, |wait| if wait % 16 == 8 { Waited::InVain } else { Waited::Spinning });
        assert_eq!(spins, 1000 - REST_FIRST);
    }

    #[test]
    fn fruitless_spins_end_within_a_few_waits_and_become_rare() {
        assert!(spins(100_000, |_| Waited::InVain) < 20);
        assert!(spins(100_000, |_| Waited::Preempted) < 20);
        // After a long time of success, too.
        let later = spins(200_000, |wait| if wait < 100_000 { Waited::Spinning } else { Waited::InVain });
        assert!(later - (100_000 - REST_FIRST) < 25);
        // Half of the spins fail: that does not pay either.
        assert!(spins(100_000, |wait| if wait % 2 == 0 { Waited::InVain } else { Waited::Spinning }) < 1000);
    }

    #[test]
    fn spinning_resumes_once_it_pays() {
        let mut spin = Spin::on(2);
        for wait in 0..3 * REST_MAX {
            if spin.tender_spins(0) {
                spin.tender_waited(if wait < REST_MAX { Waited::InVain } else { Waited::Spinning });
            }
        }
        assert!((0..100).all(|_| spin.tender_spins(0)));
    }

    #[test]
    fn there_is_no_spinning_without_a_cpu_to_spin_on() {
        assert!((0..100).all(|_| !Spin::on(1).tender_spins(0) && !Spin::on(1).child_spins(0)));
        let mut spin = Spin::on(4);
        assert!((0..100).any(|_| spin.tender_spins(1)) && (0..100).all(|_| !spin.tender_spins(2)));
    }

    #[test]
    fn the_childs_sleep_counts_only_if_the_child_was_to_spin() {
        let mut spin = Spin::on(2);
        let waits = (0..1000).filter(|_| {
            let spins = spin.child_spins(0);
            spin.child_waited(!spins);
            spins
        });
        assert_eq!(waits.count() as u32, 1000 - REST_FIRST);
    }
}
