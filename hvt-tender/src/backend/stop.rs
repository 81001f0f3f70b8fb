//! Ending a run from outside.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::{fmt, io};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// A request to end a guest's run, made from another thread or from a signal handler.
///
/// Once made it stays: every run and every sleep of the guest ends at once from then on.
#[derive(Clone)]
pub struct Stop {
    state: Arc<State>,
}

struct State {
    requested: AtomicBool,
    event: OwnedFd,
    kick: OnceLock<Box<dyn Kick>>,
}

/// How a backend is made to look at [`Stop::requested`].
pub trait Kick: Send + Sync {
    /// Makes a run that is under way, or about to begin, come back. Called from signal handlers, so it may use atomics
    /// and async-signal-safe system calls only.
    fn kick(&self);
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop").field("requested", &self.requested()).finish_non_exhaustive()
    }
}

impl Stop {
    /// A request not yet made.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let state = State { requested: AtomicBool::new(false), event: event.into(), kick: OnceLock::new() };
        Ok(Self { state: Arc::new(state) })
    }

    /// Makes the request. May be called from a signal handler, and more than once.
    pub fn request(&self) {
        self.state.requested.store(true, Ordering::SeqCst);
        // Either this sees the kick, or whoever sets it sees the request.
        fence(Ordering::SeqCst);
        // Fails only when the counter is full, and then the descriptor is readable as well.
        let _ = nix::unistd::write(&self.state.event, &1u64.to_ne_bytes());
        if let Some(kick) = self.state.kick.get() {
            kick.kick();
        }
    }

    /// Whether the request has been made.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.state.requested.load(Ordering::SeqCst)
    }

    /// A descriptor that is readable once the request has been made: for what sleeps in `poll`.
    #[must_use]
    pub fn event(&self) -> BorrowedFd<'_> {
        self.state.event.as_fd()
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
        let stop = Stop::new().unwrap();
        stop.set_kick(Box::new(Count(kicks.clone())));
        assert!(!stop.requested());
        stop.clone().request();
        assert!(stop.requested());
        assert_eq!(kicks.load(Ordering::SeqCst), 1);
        let mut byte = [0; 8];
        assert_eq!(nix::unistd::read(stop.event(), &mut byte), Ok(8));
    }
}
