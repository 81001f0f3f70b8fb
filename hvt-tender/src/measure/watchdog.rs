//! Watches what a guest uses while it runs.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use nix::time::ClockId;

use super::{Limit, Limits, Verdict};
use crate::cancel::CancelToken;
use crate::memory::Usage;
use crate::sandbox::Sandbox;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A thread that ends a guest which meets a limit. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Watchdog {
    ended: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Watches a guest whose instructions take their time from the clock `cpu`, and whose memory is told about by `memory`;
    /// `None` where there is nothing to watch. Confined, the thread may do no more than that and request the stop.
    pub(crate) fn start(
        limits: &Limits,
        cpu: ClockId,
        memory: Option<Usage>,
        verdict: Verdict,
        confinement: Option<(Sandbox, CancelToken)>,
    ) -> io::Result<Option<Self>> {
        let memory = memory.zip(limits.memory);
        if limits.wall_time.is_none() && limits.cpu_time.is_none() && memory.is_none() {
            return Ok(None);
        }
        let cpu = limits.cpu_time.map(|most| CpuLimit { most, clock: cpu, start: cpu_time(cpu) });
        let watch = Watch { start: Instant::now(), wall: limits.wall_time, cpu, memory };
        let (ended, end) = bounded(0);
        let run = move || {
            if let Some((sandbox, stop)) = confinement {
                let mut calls = sandbox.calls(&stop);
                if let Some((usage, _)) = &watch.memory {
                    usage.system_calls(&mut calls);
                }
                if let Err(error) = sandbox.confine(calls) {
                    // A guest that nobody watches must not run.
                    log::error!("{error}");
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
    clock: ClockId,
    /// What the clock showed before the guest's first instruction.
    start: Duration,
}

enum Look {
    Exceeded(Limit),
    /// Nothing can be exceeded before this much time has passed, or little can.
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
            // A guest has one CPU: it cannot use up what is left any sooner.
            match most.checked_sub(cpu_time(clock).saturating_sub(start)).filter(|left| !left.is_zero()) {
                Some(left) => again = again.min(left),
                None => return Look::Exceeded(Limit::CpuTime),
            }
        }
        if let Some((usage, most)) = &self.memory {
            // Where the host does not tell any more, there is nothing to go by.
            if usage.bytes().is_ok_and(|bytes| bytes > *most) {
                return Look::Exceeded(Limit::Memory);
            }
            again = again.min(LOOK);
        }
        Look::Again(again)
    }
}

/// What a CPU-time clock shows; nothing once what it measured is gone.
pub(crate) fn cpu_time(clock: ClockId) -> Duration {
    clock.now().map_or(Duration::ZERO, Duration::from)
}
