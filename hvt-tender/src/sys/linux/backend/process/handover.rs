//! Hand-over protocol between tender and child.
//!
//! One 32-bit word, [`Header::turn`](super::protocol::Header::turn), is a robust futex "owned" by the child while the
//! guest runs:
//!
//! | value | meaning |
//! |---|---|
//! | child's thread ID | the guest runs; the tender spins |
//! | ID + `FUTEX_WAITERS` | the guest runs; the tender sleeps on the word |
//! | [`TENDERS_TURN`] | the child has handed over and spins |
//! | [`ASLEEP`] | the child has handed over and sleeps on the word |
//! | `FUTEX_OWNER_DIED` set | the child is gone: set by the kernel through the child's robust list |
//!
//! Spinning before sleeping lets a hand-over between two CPUs take 0.3 µs instead of the time of a
//! wake-up. This helps only if the other side runs on another CPU at the same time
//! ([`Spin`] decides).

#![expect(unsafe_code, reason = "system calls, and memory that the process of the guest writes")]

use std::io;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::child::{self, Child, Wait};
use super::exchange::Exchange;
use super::protocol::turn::{ASLEEP, STARTING, TENDERS_TURN};
use super::spin::{Spin, Waited};
use crate::cancel::{CancelToken, Kick};

/// Bit set in the word by a [`Kick`]. No thread ID is this large (`PID_MAX_LIMIT` is 2²²).
const KICKED: u32 = 1 << 29;
/// Number of attempts of a kick to change a word that the guest changes at the same time.
const TRIES: u32 = 64;

/// Time that the tender spins before it sleeps, in TSC cycles: about 20 µs, the cost of two
/// wake-ups.
const SPIN_CYCLES: u64 = 50_000;
/// Number of checks of the word by the child before it sleeps: at 40 to 140 cycles a PAUSE, 10 to
/// 40 µs.
const CHILD_SPINS: u32 = 800;
/// Longest time between two checks of the word, in TSC cycles, of a thread that keeps its CPU: about
/// 10 µs.
const CHECK_CYCLES: u64 = 25_000;

/// Longest sleep before the tender checks the word, the stop request and the child again.
/// Hand-overs, kicks and the kernel at the child's death wake the tender. A wake-up can be lost
/// only if the guest overwrites the word or its robust list while the tender falls asleep.
const LOOK: Duration = Duration::from_millis(100);

/// Longest time between the mark of the child's death in the word, which the kernel writes first,
/// and the child's end. A guest can write that mark, too.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Longest time for a paused child to hand over. A guest that jumps into the stub can block the
/// signal for that.
const PAUSES_WITHIN: Duration = Duration::from_secs(10);

/// Result of waiting for the tender's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The child has handed over.
    Tenders,
    /// The end of the run was requested.
    Interrupted,
    /// The child is gone.
    Died,
    /// The guest has violated the protocol in this way and must be killed.
    Broken(&'static str),
}

/// Result of checking the stop request and the word.
#[derive(Clone, Copy)]
enum Found {
    /// The end of the run was requested.
    Stop,
    /// The word indicates the tender's turn.
    HandedOver,
    /// The word indicates the child's death.
    OwnerDied,
}

/// Tender's side of the hand-over.
#[derive(Debug)]
pub(super) struct Handover {
    exchange: Arc<Exchange>,
    child: u32,
    spin: Spin,
}

impl Handover {
    /// Creates the hand-over with the newly created child of this process id.
    pub(super) fn new(exchange: Arc<Exchange>, child: u32) -> Self {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        let handover = Self { exchange, child, spin: Spin::new() };
        // If this fails, the child has handed over already.
        let _ = handover.word().compare_exchange(STARTING, child, Ordering::SeqCst, Ordering::SeqCst);
        handover
    }

    fn word(&self) -> &AtomicU32 {
        &self.exchange.header().turn
    }

    /// Resumes the child.
    pub(super) fn resume(&mut self) -> io::Result<()> {
        let others = RUNNING.load(Ordering::Relaxed);
        let spins = &self.exchange.header().spin;
        self.spin.child_waited(self.word().load(Ordering::Relaxed) == ASLEEP);
        spins.store(if self.spin.child_spins(others) { CHILD_SPINS } else { 0 }, Ordering::Relaxed);
        if self.word().swap(self.child, Ordering::SeqCst) == ASLEEP {
            wake(self.word(), 1)?;
        }
        Ok(())
    }

    /// Waits until it is the tender's turn.
    pub(super) fn wait(&mut self, child: &Child, stop: &CancelToken) -> io::Result<Turn> {
        let _running = Running::begin();
        if self.spin.tender_spins(RUNNING.load(Ordering::Relaxed).saturating_sub(1)) {
            let (found, waited) = self.look_for(stop, SPIN_CYCLES);
            self.spin.tender_waited(waited);
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
                // The child handed over, was kicked or died, or the guest overwrote the word.
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

    /// Waits until the child has handed over, even if the end of the run is requested. Returns false
    /// if the child does not within [`ENDS_WITHIN`].
    pub(super) fn settle(&self, child: &Child) -> io::Result<bool> {
        let start = Instant::now();
        while start.elapsed() < ENDS_WITHIN && !child.has_ended()? {
            let now = self.word().load(Ordering::Acquire);
            if now <= ASLEEP {
                return Ok(true);
            }
            let asleep = self.child | libc::FUTEX_WAITERS;
            let announced = self.word().compare_exchange(now, asleep, Ordering::SeqCst, Ordering::SeqCst);
            if announced.is_ok() {
                sleep(self.word(), asleep, LOOK)?;
            }
        }
        Ok(false)
    }

    /// Acts on the word. The word is an allegation by the guest, so that the kernel is asked before
    /// a death is believed.
    fn believe(&self, found: Found, child: &Child, stop: &CancelToken) -> io::Result<Turn> {
        match found {
            Found::Stop => Ok(Turn::Interrupted),
            // If the allegation is false, the guest runs while the tender acts, and can only
            // corrupt its own registers.
            Found::HandedOver => Ok(Turn::Tenders),
            Found::OwnerDied => Ok(match child.gone_within(ENDS_WITHIN, Some(stop))? {
                Wait::Gone => Turn::Died,
                Wait::Stopped => Turn::Interrupted,
                Wait::TimeUp => Turn::Broken("it reported its own death and stayed alive"),
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

    fn look_for(&self, stop: &CancelToken, cycles: u64) -> (Option<Found>, Waited) {
        let start = cycle_counter();
        let mut last = start;
        loop {
            let found = self.look(stop);
            let now = cycle_counter();
            if now.wrapping_sub(last) > CHECK_CYCLES {
                return (found, Waited::Preempted);
            }
            if found.is_some() {
                return (found, Waited::Spinning);
            }
            if now.wrapping_sub(start) > cycles {
                return (None, Waited::InVain);
            }
            last = now;
            std::hint::spin_loop();
        }
    }

    /// Returns a handle that interrupts a current run.
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
        // While the tender acts, the child must not take the change for its turn. The guest may
        // write the word at any time; if this change is lost, the tender finds out at its next
        // check.
        for _ in 0..TRIES {
            let now = word.load(Ordering::SeqCst);
            if now <= ASLEEP || word.compare_exchange(now, now | KICKED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                break;
            }
        }
        // Unconditional: the guest may have written the word while the tender slept, and may sleep
        // on it itself.
        let _ = wake(word, i32::MAX);
    }

    /// The child hands over at every signal. The guest's registers are then in its frame.
    fn pause(&self) {
        // If the signal cannot be sent, the tender waits for `PAUSES_WITHIN` and ends the run.
        let _ = child::send(&self.pidfd, child::PAUSE);
    }
}

/// Number of guests in this process.
static ALIVE: AtomicUsize = AtomicUsize::new(0);
/// Number of guests that are running now. Counted only while there are several guests.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Counts a guest as running until dropped.
struct Running;

impl Running {
    /// Returns `None` for a single guest, so that its hypercalls do not pay for the count.
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

fn cycle_counter() -> u64 {
    // SAFETY: every x86_64 CPU has RDTSC, and Linux permits it in user mode except after
    // PR_SET_TSC.
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
    // SAFETY: the futex is an atomic and the timeout a local; the call reads both. The futex is not
    // private, because the child is another process.
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

/// Wakes at most `at_most` sleepers on the word.
fn wake(word: &AtomicU32, at_most: i32) -> io::Result<()> {
    let nobody = ptr::null::<libc::timespec>();
    // SAFETY: the futex is an atomic. A wake reads nothing else.
    let result = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, at_most, nobody) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
