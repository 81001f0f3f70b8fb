//! Queue of the frames to a port, arrived or in transit.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::impairment::{Impairment, Way};
use crate::device::{Endpoint, Senders};
use crate::sys::event::Event;
use crate::sys::timer::Timer;
use crate::virtual_time::VirtualTime;

/// Bounded queue of frames, ordered by arrival, with a descriptor that is readable exactly while an
/// arrived frame is queued.
///
/// Queue and descriptor change together under one lock, so that a poll neither misses a frame nor
/// reports a frame that has been received already.
#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
    endpoint: Arc<Endpoint>,
    doorbell: InboxDoorbell,
    most: usize,
    time: Option<VirtualTime>,
    /// Wakes the sender that waits for room in the queue.
    waker: OnceLock<Waker>,
    /// Owner of the port, as a number of [`Owner`].
    owner: AtomicU8,
}

/// Owner of the port that an inbox belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Owner {
    /// A test, an in-memory host, or another thread that is not scheduled by the virtual time.
    Other,
    /// A guest that runs in the virtual time.
    Guest,
    /// The port has been dropped.
    None,
}

#[derive(Debug)]
struct State {
    way: Way,
    /// Frames by arrival time and send order.
    frames: BTreeMap<(Duration, u64), Vec<u8>>,
    sent: u64,
    /// Arrival time for which the doorbell is set, which may have passed already.
    ringing: Option<Duration>,
    /// Length in bytes of the longest frame dropped because the queue was full.
    lost: usize,
    /// Number of free slots for which the sender waits.
    awaited: Option<usize>,
}

/// Function that wakes a sender.
struct Waker(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// Descriptor that becomes readable when a frame arrives.
#[derive(Debug)]
enum InboxDoorbell {
    /// Frames arrive immediately: an eventfd with a counter of 0 or 1.
    Event(Arc<Event>),
    /// Frames are delayed: a timerfd that expires when the first frame arrives.
    Timer(Arc<Timer>),
}

impl Inbox {
    pub(super) fn new(
        impairment: Impairment,
        number: usize,
        most: usize,
        time: Option<VirtualTime>,
    ) -> io::Result<Self> {
        let (endpoint, doorbell) = if impairment.delays() && time.is_none() {
            let timer = Arc::new(Timer::new()?);
            (Endpoint::of(timer.clone()), InboxDoorbell::Timer(timer))
        } else {
            let event = Arc::new(Event::new()?);
            (Endpoint::of(event.clone()), InboxDoorbell::Event(event))
        };
        let state = State {
            way: Way::new(impairment, number),
            frames: BTreeMap::new(),
            sent: 0,
            ringing: None,
            lost: 0,
            awaited: None,
        };
        Ok(Self {
            state: Mutex::new(state),
            arrived: Condvar::new(),
            endpoint: Arc::new(endpoint),
            doorbell,
            most,
            time,
            waker: OnceLock::new(),
            owner: AtomicU8::new(Owner::Other as u8),
        })
    }

    /// Returns the descriptor that is readable while an arrived frame is queued.
    pub(super) fn endpoint(&self) -> Arc<Endpoint> {
        self.endpoint.clone()
    }

    /// Queues a frame. A full queue drops the frame.
    pub(super) fn send(&self, frame: &[u8]) {
        let mut state = self.lock();
        let now = self.now();
        for time in state.way.next().into_iter().flatten() {
            if state.frames.len() < self.most {
                let order = state.sent;
                state.sent += 1;
                state.frames.insert((now.saturating_add(time), order), frame.to_vec());
            } else {
                state.lost = state.lost.max(frame.len());
            }
        }
        self.ring(&mut state, now);
        drop(state);
        self.arrived.notify_all();
        if let Some(time) = &self.time {
            // Not under the lock of the queue: `poke` may take it.
            time.poke();
        }
    }

    /// Removes and returns the first frame that has arrived.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        self.take_from(&mut self.lock(), self.now())
    }

    /// Waits for the first frame to arrive, then removes and returns it. Returns `None` if no frame
    /// arrives within `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> Option<Vec<u8>> {
        let start = Instant::now();
        let mut state = self.lock();
        loop {
            // A caller outside of the virtual time does not wait for virtual time to pass.
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

    /// Returns the length in bytes of the longest frame dropped because the queue was full.
    #[cfg(test)]
    pub(super) fn lost(&self) -> usize {
        self.lock().lost
    }

    /// Returns whether the queue has room for `frames` frames and a quarter of the queue remains
    /// free for replies, which the sender does not count. If not, the sender is woken once there is
    /// that room and half of the queue is free.
    ///
    /// Always true in a virtual time: a wakeup would schedule the sender at an instant that depends
    /// on the host.
    pub(super) fn admits(&self, frames: usize) -> bool {
        let mut state = self.lock();
        let needed = frames.saturating_add(self.most / 4).min(self.most);
        let admits = self.time.is_some() || self.free(&state) >= needed;
        state.awaited = (!admits).then_some(needed.max(self.most / 2));
        admits
    }

    /// Returns whether the queue is full, so that the next frame would be dropped.
    pub(super) fn is_full(&self) -> bool {
        self.time.is_none() && self.most > 0 && self.free(&self.lock()) == 0
    }

    /// Sets the function that wakes the sender. Only the first call has an effect.
    pub(super) fn wake_by(&self, waker: Arc<dyn Fn() + Send + Sync>) {
        let _ = self.waker.set(Waker(waker));
    }

    /// Returns the number of free slots.
    fn free(&self, state: &State) -> usize {
        self.most.saturating_sub(state.frames.len())
    }

    /// Updates the descriptor's readiness to the state of the queue.
    fn ring(&self, state: &mut State, now: Duration) {
        let first = state.frames.keys().next().map(|(arrival, _)| *arrival);
        let done = match &self.doorbell {
            InboxDoorbell::Event(event) => {
                match (first, state.ringing) {
                    (Some(_), None) => event.set(),
                    (None, Some(_)) => drop(event.clear()),
                    _ => {}
                }
                Ok(())
            }
            // The timer has expired and stays readable.
            InboxDoorbell::Timer(_) if first.zip(state.ringing).is_some_and(|(first, rung)| first.max(rung) <= now) => {
                return;
            }
            InboxDoorbell::Timer(_) if first == state.ringing => return,
            InboxDoorbell::Timer(timer) => match first {
                // An expiry time of 0 would disarm the timer, but CLOCK_MONOTONIC is past 0.
                Some(at) => timer.set(at),
                None => timer.unset(),
            },
        };
        state.ringing = first;
        if let Err(error) = done {
            // Unreachable with a valid descriptor and a valid time.
            log::error!("in-memory network: cannot signal that a frame has arrived: {error}");
        }
    }

    /// Returns the time on the clock of arrivals: the virtual time, or `CLOCK_MONOTONIC` of the
    /// timerfd.
    fn now(&self) -> Duration {
        match &self.time {
            Some(time) => time.elapsed(),
            None => Timer::now(),
        }
    }

    /// Returns the wall-clock time since the Unix epoch.
    pub(super) fn wall_time(&self) -> Duration {
        match &self.time {
            Some(time) => time.wall_time(),
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// Returns the virtual time in which frames arrive, if any.
    pub(super) fn virtual_time(&self) -> Option<&VirtualTime> {
        self.time.as_ref()
    }

    /// Returns whether frames arrive in a virtual time.
    pub(super) fn is_virtual(&self) -> bool {
        self.time.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    /// Sets the owner of the port. [`Owner::None`] is final.
    pub(super) fn set_owner(&self, owner: Owner) {
        let change = |before| (before != Owner::None as u8).then_some(owner as u8);
        let _ = self.owner.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
        if let (Owner::None, Some(time)) = (owner, &self.time) {
            // A guest that waits for frames of this port may wait forever now: let the clock check.
            time.poke();
        }
    }

    /// Returns the kind of sender that the port's owner is.
    pub(super) fn sender(&self) -> Senders {
        match self.owner.load(Ordering::SeqCst) {
            owner if owner == Owner::Guest as u8 => Senders::Guests,
            owner if owner == Owner::None as u8 => Senders::None,
            _ => Senders::Anything,
        }
    }

    /// Returns the arrival time of the first frame in nanoseconds of virtual time.
    pub(super) fn next(&self) -> Option<u64> {
        let first = self.lock().frames.keys().next().map(|(arrival, _)| arrival.as_nanos())?;
        u64::try_from(first).ok()
    }
}
