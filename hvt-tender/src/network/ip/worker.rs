//! The thread that a stack lives on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use crate::cancel::CancelToken;
use crate::device::Arrivals;
use crate::virtual_time::VirtualTime;

/// Wakes a worker.
#[derive(Debug)]
pub(in crate::network) struct StackDoorbell {
    over: AtomicBool,
    way: Way,
}

/// How a bell is heard.
#[derive(Debug)]
enum Way {
    /// It makes a descriptor readable.
    Event(EventFd),
    /// It is an arrival, for who takes turns with the guests of a virtual time.
    Arrival { rung: AtomicBool, time: VirtualTime, stop: CancelToken },
}

impl StackDoorbell {
    pub(in crate::network) fn new() -> io::Result<Arc<Self>> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Arc::new(Self { over: AtomicBool::new(false), way: Way::Event(event) }))
    }

    /// One for a worker that lives in this time, whose turns `stop` ends.
    pub(in crate::network) fn in_virtual_time(time: &VirtualTime, stop: &CancelToken) -> Arc<Self> {
        let way = Way::Arrival { rung: AtomicBool::new(false), time: time.clone(), stop: stop.clone() };
        Arc::new(Self { over: AtomicBool::new(false), way })
    }

    /// Wakes the worker, now or when it next waits.
    pub(in crate::network) fn ring(&self) {
        match &self.way {
            // It fails only when the counter is full, and then the descriptor is readable as well.
            Way::Event(event) => drop(event.write(1)),
            Way::Arrival { rung, time, .. } => {
                rung.store(true, Ordering::SeqCst);
                time.poke();
            }
        }
    }

    /// Forgets what has rung so far.
    pub(in crate::network) fn silence(&self) {
        match &self.way {
            // It fails only when nothing has.
            Way::Event(event) => drop(event.read()),
            Way::Arrival { rung, .. } => rung.store(false, Ordering::SeqCst),
        }
    }

    /// Tells the worker to end.
    fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        match &self.way {
            Way::Event(_) => self.ring(),
            Way::Arrival { stop, .. } => stop.request(),
        }
    }

    /// Whether the worker is to end.
    pub(in crate::network) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

impl AsFd for StackDoorbell {
    /// What is readable once it has rung; in virtual time, once it is over.
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
            // It has rung already.
            Way::Arrival { rung, .. } => rung.load(Ordering::SeqCst).then_some(0),
            Way::Event(_) => None,
        }
    }
}

/// A thread that ends when this is dropped, and has ended once it is.
#[derive(Debug)]
pub(in crate::network) struct Worker {
    doorbell: Arc<StackDoorbell>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread, which must return once `doorbell` says that it [is over](StackDoorbell::is_over).
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
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Waits until one of these descriptors is ready, for `timeout` at most.
pub(in crate::network) fn wait(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    match ppoll(fds, timeout.map(TimeSpec::from_duration), None) {
        // The caller looks again in any case.
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
