//! Timer for the next attempt to meet another tender.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::device::{Descriptor, Uses};

/// Timer that becomes readable when the next attempt is due, so that it wakes a sleeping guest. The
/// pause doubles after each attempt.
#[derive(Debug)]
pub(super) struct Retry {
    timer: TimerFd,
    pause: Duration,
    due: Option<Instant>,
}

impl Retry {
    /// Pause before the second attempt: tenders lock their folder for less than a millisecond.
    const FIRST: Duration = Duration::from_millis(4);
    /// Longest pause.
    const LONGEST: Duration = Duration::from_millis(500);

    /// Creates a timer that is not set.
    pub(super) fn new() -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        Ok(Self { timer, pause: Self::FIRST, due: None })
    }

    /// Sets the timer after a failed attempt.
    pub(super) fn schedule(&mut self) {
        let expiration = Expiration::OneShot(TimeSpec::from(self.pause));
        if let Err(errno) = self.timer.set(expiration, TimerSetTimeFlags::empty()) {
            log::error!("cannot retry a network socket while the guest sleeps: {errno}");
        }
        self.due = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(Self::LONGEST);
    }

    /// Clears the timer after a successful attempt.
    pub(super) fn clear(&mut self) {
        self.pause = Self::FIRST;
        if self.due.take().is_some() {
            // Clearing a valid timer does not fail.
            let _ = self.timer.unset();
        }
    }

    /// Returns whether the pause is over.
    pub(super) fn is_due(&self) -> bool {
        self.due.is_none_or(|due| Instant::now() >= due)
    }

    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor::new(self, Uses::TIMER)
    }
}

impl AsFd for Retry {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
