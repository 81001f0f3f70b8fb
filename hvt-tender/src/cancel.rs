//! Ending a run from outside, or making it pause.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::{fmt, io};

#[cfg(target_os = "linux")]
mod eventfd;
#[cfg(target_os = "redox")]
mod pipe;

#[cfg(target_os = "linux")]
use eventfd::Event;
#[cfg(target_os = "redox")]
use pipe::Event;

/// A request to end a guest's run, made from another thread or from a signal handler.
///
/// Once made it stays: every run and every sleep of the guest ends at once from then on.
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
}

/// The run is to end.
const REQUESTED: u8 = 1 << 0;
/// The run is to come back, and to go on when whoever runs it wants that.
const PAUSED: u8 = 1 << 1;

/// How a backend is made to look at [`CancelToken::requested`].
pub trait Kick: Send + Sync {
    /// Makes a run that is under way, or about to begin, come back. Called from signal handlers, so it may use atomics
    /// and async-signal-safe system calls only.
    fn kick(&self);

    /// Makes a run that is under way, or about to begin, come back with the guest stopped between two instructions.
    fn pause(&self) {
        self.kick();
    }

    /// Runs need not come back any more.
    fn unpause(&self) {}
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("requested", &self.requested()).finish_non_exhaustive()
    }
}

impl CancelToken {
    /// A request not yet made.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let state =
            State { wanted: AtomicU8::new(0), event: Event::new()?, kick: OnceLock::new(), ended: OnceLock::new() };
        Ok(Self { state: Arc::new(state) })
    }

    /// Makes the request. May be called from a signal handler, and more than once.
    pub fn request(&self) {
        self.state.wanted.fetch_or(REQUESTED, Ordering::SeqCst);
        self.wake(|kick| kick.kick());
    }

    /// Whether the request has been made.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.state.wanted.load(Ordering::SeqCst) & REQUESTED != 0
    }

    /// Makes the guest's thread come back from the run or the sleep that it is in, or from the next one. Unlike a request
    /// it can be taken back, and is for who runs the guest: a run that only pauses ends with
    /// [`Exit::Interrupted`](crate::Exit::Interrupted) as well.
    pub fn pause(&self) {
        self.state.wanted.fetch_or(PAUSED, Ordering::SeqCst);
        self.wake(|kick| kick.pause());
    }

    /// Takes a [pause](Self::pause) back; returns whether there was one. To be called by the guest's thread.
    pub fn unpause(&self) -> bool {
        let before = self.state.wanted.fetch_and(!PAUSED, Ordering::SeqCst);
        // Even without the flag: whoever pauses sets it first, and it may have been taken back in between.
        let woken = self.state.event.clear();
        if let Some(kick) = self.state.kick.get() {
            kick.unpause();
        }
        fence(Ordering::SeqCst);
        if self.requested() {
            // What has been undone may have been done for the request.
            self.request();
        }
        woken || before & PAUSED != 0
    }

    /// Whether the run is to pause.
    #[cfg(any(test, all(target_os = "linux", target_arch = "x86_64")))]
    pub(crate) fn paused(&self) -> bool {
        self.state.wanted.load(Ordering::SeqCst) & PAUSED != 0
    }

    /// Whether anybody wants the run to come back.
    pub(crate) fn interrupts(&self) -> bool {
        self.state.wanted.load(Ordering::SeqCst) != 0
    }

    fn wake(&self, how: impl FnOnce(&dyn Kick)) {
        // Either this sees the kick, or whoever sets it sees what is wanted.
        fence(Ordering::SeqCst);
        // First the kick: who sleeps until the event would otherwise wake, enter the guest, and perhaps see it end, before
        // the backend knows that it must not.
        if let Some(kick) = self.state.kick.get() {
            how(kick.as_ref());
        }
        self.state.event.set();
    }

    /// A descriptor that is readable once the request has been made: for what sleeps in `poll`.
    #[must_use]
    pub fn event(&self) -> BorrowedFd<'_> {
        self.state.event.as_fd()
    }

    /// Sets the descriptor that becomes readable if the guest's process ends unexpectedly. Pollers wait on it while the
    /// guest sleeps. A second call changes nothing.
    #[cfg(target_os = "linux")]
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "of the backends only the process backend, and tests, have a process that can end")
    )]
    pub(crate) fn set_ended(&self, ended: Arc<OwnedFd>) {
        let _ = self.state.ended.set(ended);
    }

    /// The descriptor that becomes readable if the guest's process ends unexpectedly; `None` if the guest runs in this
    /// process.
    pub(crate) fn ended(&self) -> Option<BorrowedFd<'_>> {
        self.state.ended.get().map(|ended| ended.as_fd())
    }

    /// Says how the backend is to be kicked. A second call changes nothing.
    pub(crate) fn set_kick(&self, kick: Box<dyn Kick>) {
        let _ = self.state.kick.set(kick);
        // A request made before now has found nothing to kick; `run` looks at `requested` before it enters the guest.
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

    /// Whoever is woken by the event finds the backend kicked already.
    #[test]
    fn the_backend_is_kicked_before_anybody_wakes() {
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
    fn a_pause_can_be_taken_back_and_a_request_cannot() {
        let stop = CancelToken::new().unwrap();
        assert!(!stop.unpause());
        stop.pause();
        assert!(stop.paused() && stop.interrupts() && !stop.requested());
        assert!(stop.unpause());
        assert!(!stop.interrupts());
        assert!(nix::unistd::read(stop.event(), &mut [0; 8]).is_err(), "nobody who sleeps is woken any more");
        stop.pause();
        stop.request();
        assert!(stop.unpause());
        assert!(stop.requested() && !stop.paused());
        assert_eq!(nix::unistd::read(stop.event(), &mut [0; 8]), Ok(8));
    }
}
