//! The next attempt to meet, and when it is due.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::device::{Descriptor, Uses};

/// A timer that becomes readable when the next attempt is due, so that it wakes a guest that sleeps. The pause between two
/// attempts doubles from one to the next.
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

    /// A timer that is not set.
    pub(super) fn new() -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        Ok(Self { timer, pause: Self::FIRST, due: None })
    }

    /// Sets the timer after an attempt that failed.
    pub(super) fn schedule(&mut self) {
        let expiration = Expiration::OneShot(TimeSpec::from(self.pause));
        if let Err(errno) = self.timer.set(expiration, TimerSetTimeFlags::empty()) {
            log::error!("a network socket cannot be looked for while the guest sleeps: {errno}");
        }
        self.due = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(Self::LONGEST);
    }

    /// Clears the timer after an attempt that succeeded.
    pub(super) fn clear(&mut self) {
        self.pause = Self::FIRST;
        if self.due.take().is_some() {
            // It is a timer, and is set to nothing that could be wrong.
            let _ = self.timer.unset();
        }
    }

    /// Whether the pause is over.
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
