//! Run of a guest, from its first instruction to its end.

use std::sync::Arc;
use std::time::Instant;

use crate::backend::{self, CancelToken, Running};
use crate::core_dump::CoreDump;
use crate::device::{CapturedOutput, Console, Descriptor, Devices, Doorbell, Interrupted, Slot, Uses};
use crate::guest::Output;
use crate::measure::{Counter, Limits, Trace, Verdict, Watchdog};
use crate::memory::{GuestSlice, MemoryMap, Usage};
use crate::monitor::{self, Failure, Outcome, Reason};
use crate::ring::{Counts, Offer, RingDoorbell, Worker};
use crate::sandbox::Sandbox;
use crate::unikernel::UnikernelError;
use crate::unikernel::debugger::{AwaitedDebugger, ConnectedDebugger, WatchedDebugger};

/// Guest that is ready to execute its first instruction.
pub(crate) struct Started {
    pub(super) machine: Box<dyn Running>,
    pub(super) memory_map: MemoryMap,
    pub(super) devices: Devices,
    pub(super) limits: Limits,
    pub(super) verdict: Verdict,
    pub(super) capture: Option<CapturedOutput>,
    pub(super) trace: Option<Trace>,
    pub(super) core_dump: Option<Arc<CoreDump>>,
    pub(super) debugger: Option<Box<dyn AwaitedDebugger>>,
    pub(super) stop: CancelToken,
    pub(super) ring: Option<Offer>,
    pub(super) sandbox: Option<Sandbox>,
    /// Memory usage, if it is reported after the end of the guest.
    pub(super) usage: Option<Usage>,
}

impl Started {
    /// Runs the guest to its end.
    pub(super) fn run(&mut self, mut counter: Option<&mut Counter>) -> Result<Outcome, UnikernelError> {
        let debugger = match self.debugger.take().map(|debugger| debugger.accept(&self.stop)).transpose() {
            Ok(Some(None)) => return Ok(Outcome::Interrupted),
            Ok(connection) => connection.flatten(),
            Err(source) => return Err(backend::BackendError { what: "waiting for a debugger", source }.into()),
        };
        let watchdog = {
            let error = |what| move |source| backend::BackendError { what, source };
            let memory = self.limits.memory.map(|_| self.machine.memory_usage()).transpose();
            let memory = memory.map_err(error("reading the guest's memory usage"))?;
            let clock = self.machine.cpu_clock()?;
            let confinement = self.sandbox.clone().map(|sandbox| (sandbox, self.stop.clone()));
            let started = Watchdog::start(&self.limits, clock, memory, self.verdict.clone(), confinement);
            started.map_err(error("starting the watchdog"))?
        };
        let doorbell = self.ring.as_ref().map(|offer| offer.doorbell().clone());
        let worker = self
            .ring
            .take()
            .map(|offer| Worker::start(offer, self.memory_map.clone(), self.stop.clone(), self.sandbox.clone()));
        let worker =
            worker.transpose().map_err(|source| backend::BackendError { what: "starting the network ring", source })?;
        let line = debugger.map(|connection| self.watch(connection)).transpose()?;
        self.confine(doorbell.as_ref(), line.as_deref())?;
        let begun = self.devices.poller.begin();
        let doorbell = doorbell.as_ref().map(|doorbell| doorbell as &dyn Doorbell);
        let (memory_map, devices, mut trace) = (&self.memory_map, &mut self.devices, self.trace.as_mut());
        let outcome = match (begun, line) {
            (Ok(()), Some(line)) => line.run(self.machine.as_mut(), memory_map, &self.stop, &mut |machine| {
                let observers = &mut (counter.as_deref_mut(), trace.as_deref_mut());
                monitor::run_observed(machine, memory_map, devices, doorbell, observers)
            }),
            (Ok(()), None) => self.machine.serve(memory_map, devices, doorbell, counter, trace),
            (Err(Interrupted), _) => Ok(Outcome::Interrupted),
        };
        let ring = worker.map_or_else(|| Ok(Counts::default()), Worker::end);
        let outcome = match (outcome, ring) {
            (Ok(Outcome::Interrupted), Err(error)) => {
                let (reason, registers) = (Reason::Ring(error), self.machine.registers().ok().map(Box::new));
                Ok(Outcome::Failed(Failure { reason, registers }))
            }
            (outcome, Ok(Counts { submissions, kicks })) if submissions > 0 => {
                log::debug!("the network ring carried {submissions} submissions with {kicks} kicks");
                outcome
            }
            (outcome, _) => outcome,
        };
        drop(watchdog);
        let synced = self.devices.sync();
        if let (Ok(outcome), Some(dump)) = (&outcome, &self.core_dump) {
            dump.write(outcome, self.machine.as_mut());
        }
        match (outcome?, self.verdict.limit(), synced) {
            // Report the loss of data that the guest has written.
            (Outcome::Exited { .. }, _, Err(_)) => Err(UnikernelError::Unsynced),
            (Outcome::Interrupted, None, _) if self.devices.poller.asleep() => Ok(Outcome::Asleep),
            (Outcome::Interrupted, Some(limit), _) => Ok(Outcome::Exceeded(limit)),
            (outcome, _, _) => Ok(outcome),
        }
    }

    /// Starts a thread that watches the connection to the debugger. It is confined like the calling
    /// thread.
    fn watch(&mut self, connection: Box<dyn ConnectedDebugger>) -> Result<Box<dyn WatchedDebugger>, UnikernelError> {
        let mut confinement = self.sandbox.clone().map(|sandbox| {
            let calls = sandbox.calls(&self.stop);
            (sandbox, calls)
        });
        if let (Some((_, calls)), Some(target)) = (&mut confinement, self.machine.debug()) {
            target.calls_to_pause(calls);
        }
        let line = connection.watch(&self.stop, confinement);
        Ok(line.map_err(|source| backend::BackendError { what: "watching the connection to the debugger", source })?)
    }

    /// Confines the calling thread, irrevocably, to the system calls that the run of the guest
    /// needs.
    fn confine(
        &mut self,
        ring: Option<&RingDoorbell>,
        debugger: Option<&dyn WatchedDebugger>,
    ) -> Result<(), UnikernelError> {
        let Some(sandbox) = &self.sandbox else { return Ok(()) };
        for slot in &self.devices.slots {
            if let Slot::Net(device) = slot {
                device
                    .helper_threads()
                    .into_iter()
                    .try_for_each(|thread| sandbox.confine_helper(thread, &self.stop))?;
            }
        }
        let mut calls = sandbox.calls(&self.stop);
        calls.allow_uses(self.devices.descriptors());
        calls.allow_uses(ring.map(|doorbell| Descriptor::new(doorbell, Uses::WRITE)));
        self.machine.system_calls(&mut calls);
        if let (Some(line), Some(target)) = (debugger, self.machine.debug()) {
            line.system_calls(&mut calls);
            // Clears a pause request.
            calls.allow_uses([Descriptor::new(self.stop.event(), Uses::READ)]);
            target.system_calls(&mut calls);
        }
        if let Some(dump) = &self.core_dump {
            dump.system_calls(&mut calls);
        }
        if let Some(usage) = &self.usage {
            usage.system_calls(&mut calls);
        }
        Ok(sandbox.confine(calls)?)
    }

    /// Runs the guest to its end and returns the record of the run.
    pub(crate) fn run_to_end(mut self) -> Result<Output, UnikernelError> {
        let clock = self.machine.cpu_clock()?;
        let (start, cpu_start) = (Instant::now(), clock.elapsed());
        let mut counter = Counter::new();
        self.usage = self.machine.memory_usage().ok();
        let outcome = self.run(Some(&mut counter))?;
        Ok(Output {
            outcome,
            console: self.capture.map(|capture| capture.bytes()).unwrap_or_default(),
            calls: counter.into_calls(),
            wall_time: start.elapsed(),
            cpu_time: clock.elapsed().saturating_sub(cpu_start),
            peak_memory: self.usage.and_then(|usage| usage.bytes().ok()),
        })
    }
}

/// Console that writes to the guest's own console and to the captured output.
pub(super) struct Both(pub(super) Box<dyn Console + Send>, pub(super) CapturedOutput);

impl Console for Both {
    fn write(&mut self, data: GuestSlice<'_>) {
        self.0.write(data);
        self.1.write(data);
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        self.0.descriptors()
    }
}
