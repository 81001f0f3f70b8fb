//! Thread that serves a ring.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle, available_parallelism};

use hvt_abi::Gpa;

use super::RingError;
use super::queue::Queue;
use super::service::Service;
use crate::cancel::CancelToken;
use crate::device::{Descriptor, Doorbell, Net, Uses};
use crate::error_chain::ErrorChain;
use crate::memory::{MappedMemory, MemoryMap};
use crate::sandbox::{Sandbox, SandboxError};
use crate::sys::event::Event;

/// Doorbell that wakes a ring's thread. A kick of the guest rings it.
#[derive(Clone, Debug)]
pub(crate) struct RingDoorbell(Arc<Event>);

impl RingDoorbell {
    /// Creates a doorbell.
    ///
    /// # Errors
    /// Returns the error of eventfd(2), such as `EMFILE` if the process has no free descriptor.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Event::blocking()?)))
    }

    /// Waits until the doorbell rings. Returns the number of rings since the last wait.
    fn wait(&self) -> u64 {
        self.0.wait()
    }
}

impl Doorbell for RingDoorbell {
    fn ring(&self) {
        self.0.set();
    }
}

impl AsFd for RingDoorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Confines the calling thread to the system calls that serving a ring needs.
fn confine(
    sandbox: &Sandbox,
    service: &Service,
    doorbell: &RingDoorbell,
    stop: &CancelToken,
) -> Result<(), SandboxError> {
    let mut calls = sandbox.calls(stop);
    calls.allow_uses([Descriptor::new(doorbell, Uses::READ | Uses::WRITE)]);
    calls.allow_uses(service.devices.iter().flatten().flat_map(|device| device.descriptors()));
    sandbox.confine(calls)
}

/// Ring that is offered to a guest.
pub(crate) struct Offer {
    memory: MappedMemory,
    place: Gpa,
    devices: Vec<Option<Box<dyn Net + Send>>>,
    doorbell: RingDoorbell,
}

impl Offer {
    /// Creates a ring at `place` in guest memory, which must be zero there, for these network
    /// devices by handle.
    ///
    /// # Errors
    /// Returns the error of eventfd(2), such as `EMFILE` if the process has no free descriptor.
    pub(crate) fn new(memory: MappedMemory, place: Gpa, devices: Vec<Option<Box<dyn Net + Send>>>) -> io::Result<Self> {
        Ok(Self { memory, place, devices, doorbell: RingDoorbell::new()? })
    }

    /// Returns the doorbell that the guest's kicks ring.
    #[must_use]
    pub(crate) fn doorbell(&self) -> &RingDoorbell {
        &self.doorbell
    }
}

/// Thread that serves a ring. It ends when this value is [ended](Self::end) or dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    doorbell: RingDoorbell,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Counts>>,
}

#[derive(Debug, Default)]
struct Shared {
    ending: AtomicBool,
    error: OnceLock<RingError>,
}

/// Statistics of a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Number of submissions.
    pub submissions: u64,
    /// Number of kicks by the guest.
    pub kicks: u64,
}

impl Worker {
    /// Returns whether the host has more than one CPU, so that the thread can run in parallel to
    /// the guest.
    #[must_use]
    pub(crate) fn pays() -> bool {
        available_parallelism().is_ok_and(|cpus| cpus.get() > 1)
    }

    /// Starts the thread, which serves the ring for a guest with this memory map. If the guest
    /// writes an invalid index or submission, the thread requests `stop`. With a sandbox, the
    /// thread is confined to the system calls that it needs.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if the ring does not lie in guest memory, and the
    /// error of clone(2) if the thread cannot be created.
    pub(crate) fn start(
        offer: Offer,
        memory_map: MemoryMap,
        stop: CancelToken,
        sandbox: Option<Sandbox>,
    ) -> io::Result<Self> {
        let Offer { memory, place, devices, doorbell } = offer;
        let queue = Queue::new(memory, place).ok_or(io::ErrorKind::InvalidInput)?;
        // Before the guest's first instruction, because its first submission may come before the
        // thread runs.
        let _ = queue.ask_for_kick();
        let service = Service { queue, memory_map, devices };
        let shared = Arc::new(Shared::default());
        let thread = Builder::new().name("net-ring".into()).spawn({
            let (doorbell, shared) = (doorbell.clone(), shared.clone());
            move || {
                if let Some(Err(error)) = sandbox.map(|sandbox| confine(&sandbox, &service, &doorbell, &stop)) {
                    // A guest must not run if the thread that serves its ring is not confined.
                    log::error!("{}", ErrorChain::of(&error));
                    stop.request();
                    return Counts::default();
                }
                Run { service, doorbell, stop, shared, patience: Patience::default(), counts: Counts::default() }.run()
            }
        })?;
        Ok(Self { doorbell, shared, thread: Some(thread) })
    }

    /// Ends the thread after it has executed all submissions. The guest must not run any more.
    ///
    /// # Errors
    /// Returns [`RingError`] if the guest has written an invalid index or submission.
    pub(crate) fn end(mut self) -> Result<Counts, RingError> {
        let counts = self.finish();
        self.shared.error.get().map_or(Ok(counts), |error| Err(*error))
    }

    fn finish(&mut self) -> Counts {
        self.shared.ending.store(true, Ordering::SeqCst);
        self.doorbell.ring();
        // The thread does not panic.
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.finish();
    }
}

struct Run {
    service: Service,
    doorbell: RingDoorbell,
    stop: CancelToken,
    shared: Arc<Shared>,
    patience: Patience,
    counts: Counts,
}

impl Run {
    fn run(mut self) -> Counts {
        if let Err(error) = self.serve() {
            let _ = self.shared.error.set(error);
            self.stop.request();
        }
        self.counts
    }

    fn serve(&mut self) -> Result<(), RingError> {
        loop {
            // Loaded before the submissions: the last round serves everything submitted before the
            // end.
            let ending = self.shared.ending.load(Ordering::SeqCst);
            let served = self.service.serve()?;
            self.counts.submissions += served;
            if served > 0 {
                continue;
            }
            if ending {
                return Ok(());
            }
            if self.spin()? {
                continue;
            }
            if self.service.queue.ask_for_kick()? {
                let rung = self.doorbell.wait();
                // The last ring is by `finish`, not by the guest.
                let ended = u64::from(self.shared.ending.load(Ordering::SeqCst));
                self.counts.kicks += rung.saturating_sub(ended);
            }
            self.service.queue.awake();
        }
    }

    /// Spins for a while. Returns whether a submission has arrived.
    fn spin(&mut self) -> Result<bool, RingError> {
        for _ in 0..self.patience.turns() {
            if self.service.queue.next()?.is_some() {
                self.patience.rewarded();
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        self.patience.disappointed();
        Ok(false)
    }
}

/// Adaptive spin time before a sleep: longer after a spin that saw a submission, shorter after one
/// that saw none.
#[derive(Debug)]
struct Patience(u32);

impl Patience {
    /// Minimum and maximum number of loop iterations, about 100 ns and 100 us. A sleep and a wakeup
    /// take 10 us.
    const RANGE: std::ops::RangeInclusive<u32> = 4..=4096;

    fn turns(&self) -> u32 {
        self.0
    }

    fn rewarded(&mut self) {
        self.0 = (self.0 * 4).min(*Self::RANGE.end());
    }

    fn disappointed(&mut self) {
        self.0 = (self.0 / 2).max(*Self::RANGE.start());
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self(256)
    }
}
