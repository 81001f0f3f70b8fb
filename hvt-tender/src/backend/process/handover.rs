//! Whose turn it is: the protocol between tender and child.
//!
//! One 32-bit word, [`Header::turn`](super::exchange::Header::turn), is a robust futex "owned" by the child while the
//! guest runs:
//!
//! | value | meaning |
//! |---|---|
//! | child's thread id | the guest runs; the tender spins |
//! | id + `FUTEX_WAITERS` | the guest runs; the tender sleeps on the word |
//! | [`TENDERS_TURN`] | the child has handed over and spins |
//! | [`ASLEEP`] | the child has handed over and sleeps on the word |
//! | `FUTEX_OWNER_DIED` set | the child is gone: the kernel says so through the child's robust list |
//!
//! Spinning for a while before sleeping makes a hand-over between two CPUs cost 0.3 µs instead of a wake-up. It pays
//! only where the other side runs on another CPU meanwhile, so it is given up where it keeps failing.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use super::child::{self, Child};
use super::exchange::Exchange;
use super::protocol::turn::{ASLEEP, STARTING, TENDERS_TURN};
use crate::stop::{Kick, Stop};

/// Set in the word by a [`Kick`]: no thread id is this large (`PID_MAX_LIMIT` is 2²²).
const KICKED: u32 = 1 << 29;

/// How long the tender watches the word before it sleeps, in TSC cycles: about 20 µs, the cost of two wake-ups.
const SPIN_CYCLES: u64 = 50_000;
/// How often the child looks at the word before it sleeps: at 40 to 140 cycles a PAUSE, 10 to 40 µs.
const CHILD_SPINS: u32 = 800;
/// After this many fruitless spins in a row, the tender stops spinning ...
const PATIENCE: u32 = 8;
/// ... for this many hand-overs.
const PAUSE_LENGTH: u32 = 256;

/// The longest sleep without a look at whether the child lives. The kernel wakes the tender when the child dies; only
/// a child that has overwritten the word or its robust list needs this.
const LOOK: Duration = Duration::from_secs(1);

/// What the tender found when it waited for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The child has handed over.
    Tenders,
    /// Somebody asked the run to end.
    Interrupted,
    /// The child is gone, or about to be.
    Died,
}

/// The tender's end of the hand-over.
#[derive(Debug)]
pub(super) struct Handover {
    exchange: Arc<Exchange>,
    child: u32,
    spin: Spin,
}

impl Handover {
    /// The hand-over with the child that has this process id, and has been made just now.
    pub(super) fn new(exchange: Arc<Exchange>, child: u32) -> Self {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        let handover = Self { exchange, child, spin: Spin::new() };
        // Where this fails, the child has handed over already.
        let _ = handover.word().compare_exchange(STARTING, child, Ordering::SeqCst, Ordering::SeqCst);
        handover
    }

    fn word(&self) -> &AtomicU32 {
        &self.exchange.header().turn
    }

    /// Lets the child go on.
    pub(super) fn resume(&self) -> io::Result<()> {
        let others = RUNNING.load(Ordering::Relaxed);
        self.exchange.header().spin.store(if self.spin.pays_with(others) { CHILD_SPINS } else { 0 }, Ordering::Relaxed);
        if self.word().swap(self.child, Ordering::SeqCst) == ASLEEP {
            wake(self.word())?;
        }
        Ok(())
    }

    /// Waits until it is the tender's turn.
    pub(super) fn wait(&mut self, child: &Child, stop: &Stop) -> io::Result<Turn> {
        let _running = Running::begin();
        if self.spin.enter() {
            let found = self.look_for(stop, SPIN_CYCLES);
            self.spin.leave(found.is_some());
            if let Some(turn) = found {
                return Ok(turn);
            }
        }
        loop {
            if let Some(turn) = self.look(stop) {
                return Ok(turn);
            }
            let asleep = self.child | libc::FUTEX_WAITERS;
            let now = self.word().compare_exchange(self.child, asleep, Ordering::SeqCst, Ordering::SeqCst);
            if now.is_err_and(|now| now != asleep) {
                // Handed over, kicked, dead, or overwritten by the guest.
                match self.look(stop) {
                    Some(turn) => return Ok(turn),
                    None => self.word().store(asleep, Ordering::SeqCst),
                }
            }
            if sleep(self.word(), asleep, LOOK)? == Woken::TimeUp && child.has_ended()? {
                return Ok(Turn::Died);
            }
        }
    }

    fn look(&self, stop: &Stop) -> Option<Turn> {
        if stop.requested() {
            return Some(Turn::Interrupted);
        }
        match self.word().load(Ordering::Acquire) {
            TENDERS_TURN | ASLEEP => Some(Turn::Tenders),
            word if word & libc::FUTEX_OWNER_DIED != 0 => Some(Turn::Died),
            _ => None,
        }
    }

    fn look_for(&self, stop: &Stop, cycles: u64) -> Option<Turn> {
        let start = cycle_counter();
        loop {
            if let Some(turn) = self.look(stop) {
                return Some(turn);
            }
            if cycle_counter().wrapping_sub(start) > cycles {
                return None;
            }
            std::hint::spin_loop();
        }
    }

    /// What makes a run that is under way come back.
    pub(super) fn kick(&self, child: &Child) -> Box<dyn Kick> {
        Box::new(KickWord { exchange: self.exchange.clone(), pidfd: child.pidfd() })
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

struct KickWord {
    exchange: Arc<Exchange>,
    pidfd: Arc<OwnedFd>,
}

impl Kick for KickWord {
    fn kick(&self) {
        let word = &self.exchange.header().turn;
        // While the tender acts it need not be woken, and the child must not take the change for its turn.
        let kicked =
            word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| (now > ASLEEP).then_some(now | KICKED));
        if kicked.is_ok() {
            let _ = wake(word);
        }
    }

    /// The child hands over, as it does at every signal: the guest's registers are in its frame then.
    fn pause(&self) {
        child::send(&self.pidfd, child::PAUSE);
    }
}

/// Guests of this process.
static ALIVE: AtomicUsize = AtomicUsize::new(0);
/// Those of them whose instructions are executed now, while there are several.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Counts a guest as running while it lives.
struct Running;

impl Running {
    /// `None` for the only guest there is, whose hypercalls need not pay for being counted.
    fn begin() -> Option<Self> {
        (ALIVE.load(Ordering::Relaxed) > 1).then(|| {
            RUNNING.fetch_add(1, Ordering::Relaxed);
            Self
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether spinning is worth it.
#[derive(Debug)]
struct Spin {
    /// CPUs that may run this thread and the child.
    cpus: usize,
    /// Fruitless spins in a row.
    failures: u32,
    /// Hand-overs to go without spinning.
    rest: u32,
}

impl Spin {
    fn new() -> Self {
        // SAFETY: a set of CPUs is plain data, for which all zeros are valid.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes as many bytes as it is told, which are those of `set`.
        let failed = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } < 0;
        // Where the kernel does not say, there may be one CPU only.
        // SAFETY: counts the bits of `set`.
        let cpus = if failed { 1 } else { unsafe { libc::CPU_COUNT(&set) } };
        Self { cpus: usize::try_from(cpus).unwrap_or(1), failures: 0, rest: 0 }
    }

    /// Whether there is a CPU to spin on, while this guest and so many others run: what spins for one of them otherwise
    /// takes the CPU from another.
    fn pays_with(&self, others: usize) -> bool {
        2 * (others + 1) <= self.cpus
    }

    fn enter(&mut self) -> bool {
        if self.rest > 0 {
            self.rest -= 1;
            return false;
        }
        self.pays_with(RUNNING.load(Ordering::Relaxed).saturating_sub(1))
    }

    fn leave(&mut self, found: bool) {
        self.failures = if found { 0 } else { self.failures + 1 };
        if self.failures >= PATIENCE {
            self.failures = 0;
            self.rest = PAUSE_LENGTH;
        }
    }
}

fn cycle_counter() -> u64 {
    // SAFETY: every x86_64 CPU has RDTSC, and Linux lets user mode run it unless told otherwise by PR_SET_TSC.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[derive(PartialEq, Eq)]
enum Woken {
    Changed,
    TimeUp,
}

/// Sleeps while the word is `value`.
fn sleep(word: &AtomicU32, value: u32, at_most: Duration) -> io::Result<Woken> {
    let timeout = libc::timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
    // SAFETY: the futex is an atomic, the timeout a local; the call reads both. It is not a private futex: the child
    // is another process.
    let result = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const timeout) };
    if result == 0 {
        return Ok(Woken::Changed);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Ok(Woken::Changed),
        Some(libc::ETIMEDOUT) => Ok(Woken::TimeUp),
        _ => Err(error),
    }
}

/// Wakes whoever sleeps on the word.
fn wake(word: &AtomicU32) -> io::Result<()> {
    let nobody = ptr::null::<libc::timespec>();
    // SAFETY: the futex is an atomic; a wake reads nothing else.
    let result = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1, nobody) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
