//! The thread that serves a ring.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle, available_parallelism};

use hvt_abi::Gpa;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::RingError;
use super::queue::Queue;
use super::service::Service;
use crate::cancel::CancelToken;
use crate::device::{Descriptor, Doorbell, Net, Uses};
use crate::interrupted::retry;
use crate::memory::{MappedMemory, MemoryMap};
use crate::sandbox::{Sandbox, SandboxError};

/// What wakes a ring's thread. The guest rings it by a kick.
#[derive(Clone, Debug)]
pub struct RingDoorbell(Arc<EventFd>);

impl RingDoorbell {
    /// A new one.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?)))
    }

    /// Waits until it is rung; returns how often it was since the last time.
    fn wait(&self) -> u64 {
        retry(|| self.0.read()).unwrap_or(0)
    }
}

impl Doorbell for RingDoorbell {
    fn ring(&self) {
        // Fails only when the counter is full, and then nobody sleeps.
        let _ = self.0.write(1);
    }
}

impl AsFd for RingDoorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes from the calling thread all system calls that serving a ring does not need.
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

/// A ring that a guest is offered.
pub struct Offer {
    memory: MappedMemory,
    place: Gpa,
    devices: Vec<Option<Box<dyn Net + Send>>>,
    doorbell: RingDoorbell,
}

impl Offer {
    /// A ring at `place` in this memory, all zero there, for network devices by handle.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new(memory: MappedMemory, place: Gpa, devices: Vec<Option<Box<dyn Net + Send>>>) -> io::Result<Self> {
        Ok(Self { memory, place, devices, doorbell: RingDoorbell::new()? })
    }

    /// What the guest's kicks ring.
    #[must_use]
    pub fn doorbell(&self) -> &RingDoorbell {
        &self.doorbell
    }
}

/// A thread that serves a ring, until it is ended.
#[derive(Debug)]
pub struct Worker {
    doorbell: RingDoorbell,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Counts>>,
}

#[derive(Debug, Default)]
struct Shared {
    ending: AtomicBool,
    error: OnceLock<RingError>,
}

/// What a ring has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Submissions.
    pub submissions: u64,
    /// Kicks that the guest needed for them.
    pub kicks: u64,
}

impl Worker {
    /// Whether this host has a CPU on which the thread can run beside the guest.
    #[must_use]
    pub fn pays() -> bool {
        available_parallelism().is_ok_and(|cpus| cpus.get() > 1)
    }

    /// Starts the thread, which serves the ring for a guest with this layout. Where the guest does what it may not, its
    /// run is ended by `stop`. Confined, the thread may do no more than that.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn start(offer: Offer, memory_map: MemoryMap, stop: CancelToken, sandbox: Option<Sandbox>) -> io::Result<Self> {
        let Offer { memory, place, devices, doorbell } = offer;
        let queue = Queue::new(memory, place).ok_or(io::ErrorKind::InvalidInput)?;
        // Before the guest's first instruction: its first submission may come before the thread runs.
        let _ = queue.ask_for_kick();
        let service = Service { queue, memory_map, devices };
        let shared = Arc::new(Shared::default());
        let thread = Builder::new().name("net-ring".into()).spawn({
            let (doorbell, shared) = (doorbell.clone(), shared.clone());
            move || {
                if let Some(Err(error)) = sandbox.map(|sandbox| confine(&sandbox, &service, &doorbell, &stop)) {
                    // A guest whose ring is served by a thread that can do more must not run.
                    log::error!("{error}");
                    stop.request();
                    return Counts::default();
                }
                Run { service, doorbell, stop, shared, patience: Patience::default(), counts: Counts::default() }.run()
            }
        })?;
        Ok(Self { doorbell, shared, thread: Some(thread) })
    }

    /// Ends the thread, once it has served what the guest has submitted. The guest does not run any more.
    ///
    /// # Errors
    /// When the guest did what it may not.
    pub fn end(mut self) -> Result<Counts, RingError> {
        let counts = self.finish();
        self.shared.error.get().map_or(Ok(counts), |error| Err(*error))
    }

    fn finish(&mut self) -> Counts {
        self.shared.ending.store(true, Ordering::SeqCst);
        self.doorbell.ring();
        // It does not panic.
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
            // Looked at first: what was submitted before the end is served.
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
                // The last one is that of whoever ends the thread.
                let ended = u64::from(self.shared.ending.load(Ordering::SeqCst));
                self.counts.kicks += rung.saturating_sub(ended);
            }
            self.service.queue.awake();
        }
    }

    /// Waits awake for a while. Whether something has been submitted.
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

/// How long to wait awake for the next submission: longer where that has been of use, else next to not at all.
#[derive(Debug)]
struct Patience(u32);

impl Patience {
    /// Turns of the loop: some 100 ns, and some 100 us. A sleep and a wake-up take 10 us.
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
