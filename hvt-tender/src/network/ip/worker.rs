//! Thread of a stack, and the doorbell that wakes it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFd;

use crate::cancel::CancelToken;
use crate::device::Arrivals;
use crate::sys::event::Event;
use crate::sys::sleep;
use crate::virtual_time::VirtualTime;

/// Doorbell that wakes a worker, or requests its end.
#[derive(Debug)]
pub(in crate::network) struct StackDoorbell {
    over: AtomicBool,
    way: Way,
}

/// Mechanism that wakes the worker.
#[derive(Debug)]
enum Way {
    /// The doorbell makes an eventfd readable.
    Event(Event),
    /// The doorbell is an arrival in virtual time, for a worker that takes turns with the guests.
    Arrival { rung: AtomicBool, time: VirtualTime, stop: CancelToken },
}

impl StackDoorbell {
    pub(in crate::network) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { over: AtomicBool::new(false), way: Way::Event(Event::new()?) }))
    }

    /// Creates the doorbell of a worker that runs in virtual time. A request on `stop` ends the
    /// worker's turns.
    pub(in crate::network) fn in_virtual_time(time: &VirtualTime, stop: &CancelToken) -> Arc<Self> {
        let way = Way::Arrival { rung: AtomicBool::new(false), time: time.clone(), stop: stop.clone() };
        Arc::new(Self { over: AtomicBool::new(false), way })
    }

    /// Wakes the worker if it waits. Otherwise its next wait returns immediately.
    pub(in crate::network) fn ring(&self) {
        match &self.way {
            Way::Event(event) => event.set(),
            Way::Arrival { rung, time, .. } => {
                rung.store(true, Ordering::SeqCst);
                time.poke();
            }
        }
    }

    /// Clears the doorbell.
    pub(in crate::network) fn silence(&self) {
        match &self.way {
            Way::Event(event) => drop(event.clear()),
            Way::Arrival { rung, .. } => rung.store(false, Ordering::SeqCst),
        }
    }

    /// Requests the worker to end.
    fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        match &self.way {
            Way::Event(_) => self.ring(),
            Way::Arrival { stop, .. } => stop.request(),
        }
    }

    /// Returns whether the worker has been requested to end.
    pub(in crate::network) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

impl AsFd for StackDoorbell {
    /// Returns the descriptor that is readable once the doorbell has rung. In virtual time, it is
    /// readable once the worker has been requested to end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Event(event) => event.as_fd(),
            Way::Arrival { stop, .. } => stop.event(),
        }
    }
}

impl Arrivals for StackDoorbell {
    fn next(&self) -> Option<u64> {
        match &self.way {
            // The doorbell has rung: the arrival is in the past.
            Way::Arrival { rung, .. } => rung.load(Ordering::SeqCst).then_some(0),
            Way::Event(_) => None,
        }
    }
}

/// Thread of a stack. Drop requests its end and joins it.
#[derive(Debug)]
pub(in crate::network) struct Worker {
    doorbell: Arc<StackDoorbell>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread that calls `run`, which must return once [`StackDoorbell::is_over`] of
    /// `doorbell` returns true.
    pub(in crate::network) fn start(
        name: &str,
        doorbell: Arc<StackDoorbell>,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let thread = thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self { doorbell, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.doorbell.end();
        if let Some(thread) = self.thread.take() {
            // The panic hook has reported a panic already.
            let _ = thread.join();
        }
    }
}

/// Waits up to `timeout` until one of the descriptors is ready.
pub(in crate::network) fn wait(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    match sleep::poll(fds, timeout) {
        // The caller checks all descriptors again after each wait.
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
