//! Descriptor that becomes readable at a given time: an event that a thread sets. The time scheme
//! reports an expiry only to a poll that has begun before it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::event::Event;

/// Descriptor that is readable from a moment of the [monotonic clock](Self::now) on.
#[derive(Debug)]
pub(crate) struct Timer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    event: Event,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    at: Option<Duration>,
    ended: bool,
}

impl Timer {
    /// A timer that is not set, with its thread.
    pub(crate) fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared { event: Event::new()?, state: Mutex::default(), changed: Condvar::new() });
        let run = {
            let shared = shared.clone();
            move || shared.run()
        };
        thread::Builder::new().name("hvt-timer".into()).spawn(run)?;
        Ok(Self(shared))
    }

    /// Time of the clock that timers go by.
    pub(crate) fn now() -> Duration {
        nix::time::ClockId::CLOCK_MONOTONIC.now().map_or(Duration::ZERO, Duration::from)
    }

    /// Makes the descriptor readable from this moment on, and not before.
    #[expect(clippy::unnecessary_wraps, reason = "on Linux the host can refuse")]
    pub(crate) fn set(&self, at: Duration) -> io::Result<()> {
        self.0.change(Some(at));
        Ok(())
    }

    /// Makes the descriptor unreadable.
    #[expect(clippy::unnecessary_wraps, reason = "on Linux the host can refuse")]
    pub(crate) fn unset(&self) -> io::Result<()> {
        self.0.change(None);
        Ok(())
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_one();
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, at: Option<Duration>) {
        let mut state = self.lock();
        // Under the lock, under which the thread sets the event.
        self.event.clear();
        state.at = at;
        self.changed.notify_one();
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.ended {
            state = match state.at.map(|at| at.saturating_sub(Timer::now())) {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    state.at = None;
                    self.event.set();
                    state
                }
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}

/// Clock to measure frequencies by: the one that Redox has.
pub(crate) const STEADY_CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
