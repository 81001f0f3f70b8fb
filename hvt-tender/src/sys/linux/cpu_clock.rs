//! Clock of the CPU time of a thread or a process.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::io;
use std::time::Duration;

use nix::time::ClockId;

/// Clock of the CPU time of a thread or a process.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock(ClockId);

impl CpuClock {
    /// Clock of the calling thread.
    ///
    /// # Errors
    /// The error of pthread_getcpuclockid(3).
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        let mut clock = 0;
        // SAFETY: the thread is this one, which exists, and `clock` is a local that the call fills in.
        match unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) } {
            0 => Ok(Self(ClockId::from_raw(clock))),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Time that the clock shows; 0 once the thread or the process is gone.
    pub(crate) fn elapsed(self) -> Duration {
        self.0.now().map_or(Duration::ZERO, Duration::from)
    }

    /// The host has such clocks.
    pub(crate) const EXISTS: bool = true;
}

impl From<ClockId> for CpuClock {
    fn from(clock: ClockId) -> Self {
        Self(clock)
    }
}
