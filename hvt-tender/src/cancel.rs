//! Cancels or pauses a guest's run from another thread or a signal handler.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{fmt, io};

use hvt_core::device::Sleep;

use crate::sys::event::Event;
use crate::sys::sleep::ppoll;

/// Request to end a guest's run, made from another thread or from a signal handler.
///
/// A request is permanent: it ends the current run or sleep of the guest and every later one. A token
/// serves one run.
#[derive(Clone)]
pub struct CancelToken {
    state: Arc<State>,
}

struct State {
    /// Bits: [`REQUESTED`], [`PAUSED`].
    wanted: AtomicU8,
    event: Event,
    kick: OnceLock<Box<dyn Kick>>,
    ended: OnceLock<Arc<OwnedFd>>,
    /// A run has the token: the backend of a second run could not be kicked.
    claimed: AtomicBool,
}

/// `run` must return, permanently.
const REQUESTED: u8 = 1 << 0;
/// `run` must return; the caller decides whether to resume.
const PAUSED: u8 = 1 << 1;

/// Way to make a backend check [`CancelToken::requested`].
pub(crate) trait Kick: Send + Sync {
    /// Makes the current or next run return. Called from signal handlers, so it may use only
    /// atomics and async-signal-safe system calls.
    fn kick(&self);

    /// Makes the current or next run return with the guest stopped between two instructions.
    fn pause(&self) {
        self.kick();
    }

    /// Cancels the effect of [`kick`](Self::kick) and [`pause`](Self::pause): later runs need not
    /// return.
    fn unpause(&self) {}
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("requested", &self.requested()).finish_non_exhaustive()
    }
}

impl CancelToken {
    /// Creates a token without a request.
    ///
    /// # Errors
    /// Returns the error of the system call if the host has no free descriptor.
    pub fn new() -> io::Result<Self> {
        let state = State {
            wanted: AtomicU8::new(0),
            event: Event::new()?,
            kick: OnceLock::new(),
            ended: OnceLock::new(),
            claimed: AtomicBool::new(false),
        };
        Ok(Self { state: Arc::new(state) })
    }

    /// Takes the token for a run; returns `false` if a run has taken it before.
    pub(crate) fn claim(&self) -> bool {
        !self.state.claimed.swap(true, Ordering::SeqCst)
    }

    /// Requests the end of the run. May be called from a signal handler, and more than once.
    pub fn request(&self) {
        self.state.wanted.fetch_or(REQUESTED, Ordering::SeqCst);
        self.wake(|kick| kick.kick());
    }

    /// Returns whether the end of the run is requested.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.state.wanted.load(Ordering::SeqCst) & REQUESTED != 0
    }

    /// Makes the guest's thread return from its current or next run or sleep. Unlike a request, a
    /// pause can be [cancelled](Self::unpause). A paused run ends with
    /// [`Exit::Interrupted`](crate::Exit::Interrupted) too, so the caller of `run` must handle the
    /// pause.
    pub fn pause(&self) {
        self.state.wanted.fetch_or(PAUSED, Ordering::SeqCst);
        self.wake(|kick| kick.pause());
    }

    /// Cancels a [pause](Self::pause). Returns whether there was one. Must be called by the guest's
    /// thread.
    pub fn unpause(&self) -> bool {
        let before = self.state.wanted.fetch_and(!PAUSED, Ordering::SeqCst);
        // The event is cleared even without the flag: `pause` sets the flag first, and another
        // `unpause` may have cleared the flag in between.
        let woken = self.state.event.clear();
        if let Some(kick) = self.state.kick.get() {
            kick.unpause();
        }
        fence(Ordering::SeqCst);
        if self.requested() {
            // The lines above may have cancelled a kick or an event of the request.
            self.request();
        }
        woken || before & PAUSED != 0
    }

    /// Returns whether the run must pause.
    pub(crate) fn paused(&self) -> bool {
        self.state.wanted.load(Ordering::SeqCst) & PAUSED != 0
    }

    /// Returns whether the run must return, for a request or a pause.
    pub(crate) fn interrupts(&self) -> bool {
        self.state.wanted.load(Ordering::SeqCst) != 0
    }

    fn wake(&self, how: impl FnOnce(&dyn Kick)) {
        // Either this thread sees the kick, or the thread that sets the kick sees the flag.
        fence(Ordering::SeqCst);
        // The kick comes first. Otherwise a thread that sleeps on the event could wake, enter the
        // guest and even see the guest exit before the backend is kicked.
        if let Some(kick) = self.state.kick.get() {
            how(kick.as_ref());
        }
        self.state.event.set();
    }

    /// Returns a descriptor that is readable once the end is requested or the run is paused, for
    /// use with `poll`.
    #[must_use]
    pub fn event(&self) -> BorrowedFd<'_> {
        self.state.event.as_fd()
    }

    /// Sets the descriptor that becomes readable if the guest's process exits unexpectedly. Pollers
    /// wait on it while the guest sleeps. A second call has no effect.
    pub(crate) fn set_ended(&self, ended: Arc<OwnedFd>) {
        let _ = self.state.ended.set(ended);
    }

    /// Returns the descriptor that becomes readable if the guest's process exits unexpectedly, or
    /// `None` if the guest runs in this process.
    pub(crate) fn ended(&self) -> Option<BorrowedFd<'_>> {
        self.state.ended.get().map(|ended| ended.as_fd())
    }

    /// Sets the kick of the backend. A second call has no effect.
    pub(crate) fn set_kick(&self, kick: Box<dyn Kick>) {
        let _ = self.state.kick.set(kick);
        // An earlier request found no kick. `run` therefore checks `requested` before it enters the
        // guest.
    }
}

impl Sleep for CancelToken {
    fn sleep(&self, nanoseconds: u64) {
        let (start, time) = (Instant::now(), Duration::from_nanos(nanoseconds));
        let mut stopped = [libc::pollfd { fd: self.event().as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        loop {
            let left = time.saturating_sub(start.elapsed());
            match ppoll(&mut stopped, left) {
                Ok(0) if !left.is_zero() => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn request_is_seen_by_every_kind_of_waiter() {
        struct Count(Arc<AtomicU32>);
        impl Kick for Count {
            fn kick(&self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let kicks = Arc::new(AtomicU32::new(0));
        let stop = CancelToken::new().unwrap();
        stop.set_kick(Box::new(Count(kicks.clone())));
        assert!(!stop.requested());
        stop.clone().request();
        assert!(stop.requested());
        assert_eq!(kicks.load(Ordering::SeqCst), 1);
        let mut byte = [0; 8];
        assert_eq!(nix::unistd::read(stop.event(), &mut byte), Ok(8));
    }

    /// A thread that the event wakes finds the backend already kicked.
    #[test]
    fn the_backend_is_kicked_before_a_sleeper_wakes() {
        struct Looks(CancelToken, Arc<AtomicU32>);
        impl Kick for Looks {
            fn kick(&self) {
                let sleeps = nix::unistd::read(self.0.event(), &mut [0; 8]).is_err();
                self.1.fetch_add(u32::from(sleeps), Ordering::SeqCst);
            }
        }
        let (stop, asleep) = (CancelToken::new().unwrap(), Arc::new(AtomicU32::new(0)));
        stop.set_kick(Box::new(Looks(stop.clone(), asleep.clone())));
        stop.pause();
        assert!(stop.unpause());
        stop.request();
        assert_eq!(asleep.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_pause_can_be_cancelled_and_a_request_cannot() {
        let stop = CancelToken::new().unwrap();
        assert!(!stop.unpause());
        stop.pause();
        assert!(stop.paused() && stop.interrupts() && !stop.requested());
        assert!(stop.unpause());
        assert!(!stop.interrupts());
        assert!(nix::unistd::read(stop.event(), &mut [0; 8]).is_err(), "the event is cleared");
        stop.pause();
        stop.request();
        assert!(stop.unpause());
        assert!(stop.requested() && !stop.paused());
        assert_eq!(nix::unistd::read(stop.event(), &mut [0; 8]), Ok(8));
    }
}
