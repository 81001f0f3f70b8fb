//! Watchdog thread that enforces the limits of a running guest.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::{Limit, Limits, Verdict};
use crate::cancel::CancelToken;
use crate::error_chain::ErrorChain;
use crate::memory::Usage;
use crate::sandbox::Sandbox;
use crate::sys::cpu_clock::CpuClock;

/// Interval between two samples of the memory usage.
const LOOK: Duration = Duration::from_millis(5);

/// Thread that ends a guest when it exceeds a limit. Drop ends the thread.
#[derive(Debug)]
pub(crate) struct Watchdog {
    ended: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the watchdog of a guest with the CPU-time clock `cpu` and the memory usage `memory`.
    /// Returns `None` if no limit needs a watchdog. With a confinement, the thread is confined to
    /// the system calls that it needs, and a failed confinement requests the stop.
    ///
    /// # Errors
    /// Returns the error of clone(2) if the thread cannot be created.
    pub(crate) fn start(
        limits: &Limits,
        cpu: CpuClock,
        memory: Option<Usage>,
        verdict: Verdict,
        confinement: Option<(Sandbox, CancelToken)>,
    ) -> io::Result<Option<Self>> {
        let memory = memory.zip(limits.memory);
        if limits.wall_time.is_none() && limits.cpu_time.is_none() && memory.is_none() {
            return Ok(None);
        }
        let cpu = limits.cpu_time.map(|most| CpuLimit { most, clock: cpu, start: cpu.elapsed() });
        let watch = Watch { start: Instant::now(), wall: limits.wall_time, cpu, memory };
        let (ended, end) = bounded(0);
        let run = move || {
            if let Some((sandbox, stop)) = confinement {
                let mut calls = sandbox.calls(&stop);
                if let Some((usage, _)) = &watch.memory {
                    usage.system_calls(&mut calls);
                }
                if let Err(error) = sandbox.confine(calls) {
                    // The guest must not run without its watchdog.
                    log::error!("{}", ErrorChain::of(&error));
                    return stop.request();
                }
            }
            loop {
                match watch.look() {
                    Look::Exceeded(limit) => return verdict.exceeded(limit),
                    Look::Again(wait) => {
                        if end.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                            return;
                        }
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("hvt-watchdog".into()).spawn(run)?;
        Ok(Some(Self { ended: Some(ended), thread: Some(thread) }))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.ended = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watch {
    start: Instant,
    wall: Option<Duration>,
    cpu: Option<CpuLimit>,
    memory: Option<(Usage, u64)>,
}

#[derive(Clone, Copy)]
struct CpuLimit {
    most: Duration,
    clock: CpuClock,
    /// Time on the clock before the guest's first instruction.
    start: Duration,
}

enum Look {
    Exceeded(Limit),
    /// Check again after this time. No time limit can be exceeded earlier.
    Again(Duration),
}

impl Watch {
    fn look(&self) -> Look {
        let mut again = Duration::from_secs(3600);
        if let Some(most) = self.wall {
            match most.checked_sub(self.start.elapsed()).filter(|left| !left.is_zero()) {
                Some(left) => again = again.min(left),
                None => return Look::Exceeded(Limit::WallTime),
            }
        }
        if let Some(CpuLimit { most, clock, start }) = self.cpu {
            // A guest has one CPU, so it cannot use up the remaining CPU time in less real time.
            match most.checked_sub(clock.elapsed().saturating_sub(start)).filter(|left| !left.is_zero()) {
                Some(left) => again = again.min(left),
                None => return Look::Exceeded(Limit::CpuTime),
            }
        }
        if let Some((usage, most)) = &self.memory {
            // An error means that the usage is not available any more. It does not end the guest.
            if usage.bytes().is_ok_and(|bytes| bytes > *most) {
                return Look::Exceeded(Limit::Memory);
            }
            again = again.min(LOOK);
        }
        Look::Again(again)
    }
}
