//! Descriptor that becomes readable at a given time: a timerfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// Latest expiry that a timer takes: its seconds are signed.
const LATEST: Duration = Duration::from_secs(i64::MAX as u64);

/// Descriptor that is readable from a moment of the [monotonic clock](Self::now) on.
#[derive(Debug)]
pub(crate) struct Timer(TimerFd);

impl Timer {
    /// A timer that is not set.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?))
    }

    /// Time of the clock that timers go by.
    pub(crate) fn now() -> Duration {
        nix::time::ClockId::CLOCK_MONOTONIC.now().map_or(Duration::ZERO, Duration::from)
    }

    /// Makes the descriptor readable from this moment on, which is not 0, and not before.
    pub(crate) fn set(&self, at: Duration) -> io::Result<()> {
        let at = TimeSpec::from_duration(at.min(LATEST));
        Ok(self.0.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }

    /// Makes the descriptor unreadable.
    pub(crate) fn unset(&self) -> io::Result<()> {
        Ok(self.0.unset()?)
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Clock to measure frequencies by: which nothing steers.
pub(crate) const STEADY_CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC_RAW;
