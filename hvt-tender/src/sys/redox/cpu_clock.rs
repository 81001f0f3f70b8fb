//! Clock of the CPU time of a thread: Redox has none.

use std::io;
use std::time::Duration;

/// Clock of the CPU time of a thread.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock(());

impl CpuClock {
    /// Clock of the calling thread.
    #[expect(clippy::unnecessary_wraps, reason = "on Linux the host can refuse")]
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        Ok(Self(()))
    }

    /// Time that the clock shows: none.
    pub(crate) fn elapsed(self) -> Duration {
        Duration::ZERO
    }

    /// The host has such clocks.
    pub(crate) const EXISTS: bool = false;
}
