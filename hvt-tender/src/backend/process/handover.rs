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
use std::time::{Duration, Instant};

use super::child::{self, Child, Wait};
use super::exchange::Exchange;
use super::protocol::turn::{ASLEEP, STARTING, TENDERS_TURN};
use crate::cancel::{CancelToken, Kick};

/// Set in the word by a [`Kick`]: no thread id is this large (`PID_MAX_LIMIT` is 2²²).
const KICKED: u32 = 1 << 29;
/// How often a kick tries to change a word that the guest changes meanwhile.
const TRIES: u32 = 64;

/// How long the tender watches the word before it sleeps, in TSC cycles: about 20 µs, the cost of two wake-ups.
const SPIN_CYCLES: u64 = 50_000;
/// How often the child looks at the word before it sleeps: at 40 to 140 cycles a PAUSE, 10 to 40 µs.
const CHILD_SPINS: u32 = 800;
/// After this many fruitless spins in a row, the tender stops spinning ...
const PATIENCE: u32 = 8;
/// ... for this many hand-overs.
const PAUSE_LENGTH: u32 = 256;

/// The longest sleep without a look at the word, at the stop request, and at whether the child lives. Hand-overs, kicks and
/// the kernel at the child's death wake the tender; only a guest that overwrites the word or its robust list while the
/// tender falls asleep can keep a wake-up from it.
const LOOK: Duration = Duration::from_millis(100);

/// The longest time between the word that says that the child is gone, which the kernel writes first of all, and its end.
/// A guest can write that word, too.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// The longest time that a child takes to hand over when it is paused. A guest that jumps into the stub can block the
/// signal for that.
const PAUSES_WITHIN: Duration = Duration::from_secs(10);

/// What the tender found when it waited for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The child has handed over.
    Tenders,
    /// The run is to end.
    Interrupted,
    /// The child is gone.
    Died,
    /// The guest has broken the protocol in this way, and must be killed.
    Broken(&'static str),
}

/// What a look at the stop request and the word has shown.
#[derive(Clone, Copy)]
enum Found {
    /// The run is to end.
    Stop,
    /// The word says that it is the tender's turn.
    HandedOver,
    /// The word says that the child is gone.
    OwnerDied,
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
            wake(self.word(), 1)?;
        }
        Ok(())
    }

    /// Waits until it is the tender's turn.
    pub(super) fn wait(&mut self, child: &Child, stop: &CancelToken) -> io::Result<Turn> {
        let _running = Running::begin();
        if self.spin.enter() {
            let found = self.look_for(stop, SPIN_CYCLES);
            self.spin.leave(found.is_some());
            if let Some(found) = found {
                return self.believe(found, child, stop);
            }
        }
        let mut paused = None;
        loop {
            if let Some(found) = self.look(stop) {
                return self.believe(found, child, stop);
            }
            if stop.paused() && paused.get_or_insert_with(Instant::now).elapsed() > PAUSES_WITHIN {
                return Ok(Turn::Broken("it does not react to signals"));
            }
            let asleep = self.child | libc::FUTEX_WAITERS;
            let now = self.word().compare_exchange(self.child, asleep, Ordering::SeqCst, Ordering::SeqCst);
            if now.is_err_and(|now| now != asleep) {
                // Handed over, kicked, dead, or overwritten by the guest.
                match self.look(stop) {
                    Some(found) => return self.believe(found, child, stop),
                    None => self.word().store(asleep, Ordering::SeqCst),
                }
            }
            if sleep(self.word(), asleep, LOOK)? == Woken::TimeUp && child.has_ended()? {
                return Ok(Turn::Died);
            }
        }
    }

    /// What the word says is an allegation of the guest's: where it matters, the kernel is asked.
    fn believe(&self, found: Found, child: &Child, stop: &CancelToken) -> io::Result<Turn> {
        match found {
            Found::Stop => Ok(Turn::Interrupted),
            // At worst the guest goes on while the tender acts, and spoils its own registers.
            Found::HandedOver => Ok(Turn::Tenders),
            Found::OwnerDied => Ok(match child.gone_within(ENDS_WITHIN, Some(stop))? {
                Wait::Gone => Turn::Died,
                Wait::Stopped => Turn::Interrupted,
                Wait::TimeUp => Turn::Broken("it reported its own end, and lived on"),
            }),
        }
    }

    fn look(&self, stop: &CancelToken) -> Option<Found> {
        if stop.requested() {
            return Some(Found::Stop);
        }
        match self.word().load(Ordering::Acquire) {
            TENDERS_TURN | ASLEEP => Some(Found::HandedOver),
            word if word & libc::FUTEX_OWNER_DIED != 0 => Some(Found::OwnerDied),
            _ => None,
        }
    }

    fn look_for(&self, stop: &CancelToken, cycles: u64) -> Option<Found> {
        let start = cycle_counter();
        loop {
            if let Some(found) = self.look(stop) {
                return Some(found);
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
        // While the tender acts, the child must not take the change for its turn. The guest may write the word as often as
        // it likes: what this misses then, the tender finds when it looks again.
        for _ in 0..TRIES {
            let now = word.load(Ordering::SeqCst);
            if now <= ASLEEP || word.compare_exchange(now, now | KICKED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                break;
            }
        }
        // Whatever the word says: the guest may have written it while the tender slept, and may itself wait for it.
        let _ = wake(word, i32::MAX);
    }

    /// The child hands over, as it does at every signal: the guest's registers are in its frame then.
    fn pause(&self) {
        // Where it cannot be sent, the tender waits for `PAUSES_WITHIN`, and ends the run.
        let _ = child::send(&self.pidfd, child::PAUSE);
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

/// Wakes at most so many that sleep on the word.
fn wake(word: &AtomicU32, at_most: i32) -> io::Result<()> {
    let nobody = ptr::null::<libc::timespec>();
    // SAFETY: the futex is an atomic; a wake reads nothing else.
    let result = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, at_most, nobody) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
