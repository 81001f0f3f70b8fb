//! The frames that wait for, or are on their way to, a port.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::impairment::{Impairment, Way};
use crate::device::{Endpoint, Senders};
use crate::virtual_time::VirtualTime;

/// Latest expiry that a timer takes: its seconds are signed.
const LATEST: Duration = Duration::from_secs(i64::MAX as u64);

/// A bounded queue of frames in the order in which they arrive, and a descriptor that is readable exactly while one has.
///
/// Queue and descriptor change together, under one lock: so a poll can neither miss a frame nor be told of one that has
/// been taken.
#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
    endpoint: Arc<Endpoint>,
    doorbell: InboxDoorbell,
    most: usize,
    time: Option<VirtualTime>,
    /// Wakes the sender that waits for room.
    waker: OnceLock<Waker>,
    /// An [`Owner`].
    owner: AtomicU8,
}

/// Owner of the port that an inbox belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Owner {
    /// A test, a host in memory, or another thread that no virtual time knows of.
    Other,
    /// A guest in the virtual time.
    Guest,
    /// The port has been dropped.
    None,
}

#[derive(Debug)]
struct State {
    way: Way,
    /// By time of arrival and order of sending.
    frames: BTreeMap<(Duration, u64), Vec<u8>>,
    sent: u64,
    /// When the bell rings or has rung.
    ringing: Option<Duration>,
    /// Number of frames that have found no room.
    lost: u64,
    /// Number of free places for which the sender waits.
    awaited: Option<usize>,
}

/// Function that wakes a sender.
struct Waker(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// What makes the descriptor readable.
#[derive(Debug)]
enum InboxDoorbell {
    /// Frames arrive at once: an event, counting to one at most.
    Event,
    /// Frames take time: a timer that expires when the first one arrives.
    Timer(TimerFd),
}

impl Inbox {
    pub(super) fn new(
        impairment: Impairment,
        number: usize,
        most: usize,
        time: Option<VirtualTime>,
    ) -> io::Result<Self> {
        let (fd, doorbell) = if impairment.delays() && time.is_none() {
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
            (timer.as_fd().try_clone_to_owned()?, InboxDoorbell::Timer(timer))
        } else {
            let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
            (OwnedFd::from(event), InboxDoorbell::Event)
        };
        let state = State {
            way: Way::new(impairment, number),
            frames: BTreeMap::new(),
            sent: 0,
            ringing: None,
            lost: 0,
            awaited: None,
        };
        let endpoint = Arc::new(Endpoint::new(fd));
        Ok(Self {
            state: Mutex::new(state),
            arrived: Condvar::new(),
            endpoint,
            doorbell,
            most,
            time,
            waker: OnceLock::new(),
            owner: AtomicU8::new(Owner::Other as u8),
        })
    }

    /// What is readable while a frame waits.
    pub(super) fn endpoint(&self) -> Arc<Endpoint> {
        self.endpoint.clone()
    }

    /// Sends a frame on its way to here. What finds no room is lost.
    pub(super) fn send(&self, frame: &[u8]) {
        let mut state = self.lock();
        let now = self.now();
        for time in state.way.next().into_iter().flatten() {
            if state.frames.len() < self.most {
                let order = state.sent;
                state.sent += 1;
                state.frames.insert((now.saturating_add(time), order), frame.to_vec());
            } else {
                state.lost += 1;
            }
        }
        self.ring(&mut state, now);
        drop(state);
        self.arrived.notify_all();
        if let Some(time) = &self.time {
            // Not under the lock of the queue, at which this may look.
            time.poke();
        }
    }

    /// Takes the first frame that has arrived.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        self.take_from(&mut self.lock(), self.now())
    }

    /// Takes the first frame, once it has arrived; `None` when none does in time.
    pub(super) fn wait(&self, timeout: Duration) -> Option<Vec<u8>> {
        let start = Instant::now();
        let mut state = self.lock();
        loop {
            // Who waits outside of a virtual time need not wait for it.
            let now = if self.time.is_some() { Duration::MAX } else { self.now() };
            if let Some(frame) = self.take_from(&mut state, now) {
                return Some(frame);
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return None;
            }
            let next = state.frames.keys().next().map_or(left, |(arrival, _)| arrival.saturating_sub(now).min(left));
            state = self.arrived.wait_timeout(state, next).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn take_from(&self, state: &mut State, now: Duration) -> Option<Vec<u8>> {
        let first = state.frames.first_entry().filter(|first| first.key().0 <= now)?;
        let frame = first.remove();
        self.ring(state, now);
        if state.awaited.is_some_and(|frames| self.free(state) >= frames) {
            state.awaited = None;
            if let Some(waker) = self.waker.get() {
                (waker.0)();
            }
        }
        Some(frame)
    }

    /// Returns the number of frames that have found no room.
    #[cfg(all(test, feature = "smoltcp"))]
    pub(super) fn lost(&self) -> u64 {
        self.lock().lost
    }

    /// Returns whether a round of `frames` finds room and leaves a quarter of the queue free, for replies that no round
    /// has counted. If not, the sender is woken once there is that room and half of the queue is free.
    ///
    /// Always true in a virtual time: a sender that is woken would take its turn at an instant of its own.
    #[cfg(feature = "smoltcp")]
    pub(super) fn admits(&self, frames: usize) -> bool {
        let mut state = self.lock();
        let needed = frames.saturating_add(self.most / 4).min(self.most);
        let admits = self.time.is_some() || self.free(&state) >= needed;
        state.awaited = (!admits).then_some(needed.max(self.most / 2));
        admits
    }

    /// Returns whether the next frame would find no room.
    #[cfg(feature = "smoltcp")]
    pub(super) fn is_full(&self) -> bool {
        self.time.is_none() && self.most > 0 && self.free(&self.lock()) == 0
    }

    /// Sets the function that wakes the sender. The first one remains.
    #[cfg(feature = "smoltcp")]
    pub(super) fn wake_by(&self, waker: Arc<dyn Fn() + Send + Sync>) {
        let _ = self.waker.set(Waker(waker));
    }

    /// Number of frames that find room.
    fn free(&self, state: &State) -> usize {
        self.most.saturating_sub(state.frames.len())
    }

    /// Makes the descriptor say what the queue holds.
    fn ring(&self, state: &mut State, now: Duration) {
        let first = state.frames.keys().next().map(|(arrival, _)| *arrival);
        let done = match &self.doorbell {
            InboxDoorbell::Event => match (first, state.ringing) {
                (Some(_), None) => nix::unistd::write(self.endpoint.as_fd(), &1u64.to_ne_bytes()).map(drop),
                (None, Some(_)) => nix::unistd::read(self.endpoint.as_fd(), &mut [0; 8]).map(drop),
                _ => Ok(()),
            },
            // It rings already, and goes on.
            InboxDoorbell::Timer(_) if first.zip(state.ringing).is_some_and(|(first, rung)| first.max(rung) <= now) => {
                return;
            }
            InboxDoorbell::Timer(_) if first == state.ringing => return,
            InboxDoorbell::Timer(timer) => match first {
                // A timer of 0 would be none at all; the host's clock has not shown that for long.
                Some(at) => {
                    let at = TimeSpec::from_duration(at.min(LATEST));
                    timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
                }
                None => timer.unset(),
            },
        };
        state.ringing = first;
        if let Err(errno) = done {
            // Not for a good descriptor and a good time.
            log::error!("a network in memory cannot say that frames wait: {errno}");
        }
    }

    /// The clock of arrivals: a virtual one, or the one that timers go by.
    fn now(&self) -> Duration {
        match &self.time {
            Some(time) => time.elapsed(),
            None => nix::time::ClockId::CLOCK_MONOTONIC.now().map_or(Duration::ZERO, Duration::from),
        }
    }

    /// What a wall clock shows, since the Unix epoch.
    pub(super) fn wall_time(&self) -> Duration {
        match &self.time {
            Some(time) => time.wall_time(),
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// The virtual time in which frames arrive.
    #[cfg(feature = "smoltcp")]
    pub(super) fn virtual_time(&self) -> Option<&VirtualTime> {
        self.time.as_ref()
    }

    /// Whether frames arrive in a virtual time.
    pub(super) fn is_virtual(&self) -> bool {
        self.time.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    /// Says who has the port now. A port that has been dropped stays dropped.
    pub(super) fn set_owner(&self, owner: Owner) {
        let change = |before| (before != Owner::None as u8).then_some(owner as u8);
        let _ = self.owner.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
        if let (Owner::None, Some(time)) = (owner, &self.time) {
            // Who waited for its frames may wait in vain now.
            time.poke();
        }
    }

    /// Sender that the port is.
    pub(super) fn sender(&self) -> Senders {
        match self.owner.load(Ordering::SeqCst) {
            owner if owner == Owner::Guest as u8 => Senders::Guests,
            owner if owner == Owner::None as u8 => Senders::None,
            _ => Senders::Anything,
        }
    }

    /// When the first frame arrives or has arrived, in nanoseconds of the virtual time.
    pub(super) fn next(&self) -> Option<u64> {
        let first = self.lock().frames.keys().next().map(|(arrival, _)| arrival.as_nanos())?;
        u64::try_from(first).ok()
    }
}
