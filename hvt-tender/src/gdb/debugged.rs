//! vCPU whose runs are visible to a debugger.

use gdbstub::common::Signal;
use gdbstub::stub::state_machine::GdbStubStateMachine as Stub;
use gdbstub::stub::{DisconnectReason, GdbStub, SingleThreadStopReason};
use hvt_abi::native::Registers;

use super::breakpoints::Kind;
use super::connection::{Heard, Input, Line, Output, Watcher};
use super::inferior::{Inferior, Resume};
use crate::Vcpu;
use crate::backend::debug::Halt;
use crate::backend::{BackendError, CancelToken, Machine};
use crate::exit::{Cause, Exit, Fault};
use crate::memory::{GuestMemory, MemoryMap};
use crate::monitor::Outcome;
use crate::registers::Named;

/// Machine with a debugger. The guest is stopped at first. After the debugger disconnects, the
/// machine runs as without a debugger.
pub(crate) struct Debugged<'m> {
    inferior: Inferior<'m>,
    session: Option<Session<'m>>,
    stop: CancelToken,
    /// Last exit, reported to the debugger but not yet to the monitor's loop.
    over: Option<Exit>,
    /// The guest runs without the debugger.
    alone: bool,
}

/// Connection to the debugger.
struct Session<'m> {
    stub: Stub<'static, Inferior<'m>, Output>,
    input: Input,
    watcher: Watcher,
}

/// Result of a conversation with the debugger.
enum Talk {
    /// The guest resumes.
    Resumed,
    /// The debugger has disconnected.
    Gone,
    /// The run must end.
    Ended,
}

type StopReason = SingleThreadStopReason<u64>;

impl<'m> Debugged<'m> {
    /// Puts a machine under the control of a debugger.
    ///
    /// # Errors
    /// Returns [`BackendError`] if the machine cannot be debugged or the connection fails.
    pub(crate) fn new(
        machine: &'m mut dyn Machine,
        memory_map: &'m MemoryMap,
        line: Line,
        stop: CancelToken,
    ) -> Result<Self, BackendError> {
        let error = |source| BackendError { what: "talking to the debugger", source };
        let inferior = Inferior::new(machine, memory_map).ok_or_else(|| error(std::io::ErrorKind::Unsupported.into()));
        let mut inferior = inferior?;
        let Line { input, output, watcher } = line;
        let stub = GdbStub::new(output).run_state_machine(&mut inferior);
        let stub = stub.map_err(|lost| error(std::io::Error::other(lost.to_string())))?;
        Ok(Self { inferior, session: Some(Session { stub, input, watcher }), stop, over: None, alone: false })
    }

    /// Reports the end of the run to the debugger, and removes everything that the debugger has put
    /// into the guest.
    pub(crate) fn end(&mut self, outcome: &Result<Outcome, BackendError>) {
        let reason = match outcome {
            // Like the exit status of a process: the lowest eight bits.
            Ok(Outcome::Exited { status, .. }) => StopReason::Exited(*status as u8),
            Ok(Outcome::Failed(_)) => StopReason::Terminated(Signal::SIGSEGV),
            Ok(Outcome::Interrupted | Outcome::Asleep) => StopReason::Terminated(Signal::SIGTERM),
            Ok(Outcome::Exceeded(_)) | Err(_) => StopReason::Terminated(Signal::SIGKILL),
        };
        if let Err(error) = self.inferior.withdraw() {
            log::debug!("cannot remove breakpoints: {error}");
        }
        if let Some(Session { stub: Stub::Running(stub), .. }) = self.session.take()
            && let Err(error) = stub.report_stop(&mut self.inferior, reason)
        {
            log::debug!("cannot report the guest's exit to the debugger: {error}");
        }
    }

    /// Returns whether the debugger has resumed the guest.
    fn is_running(&self) -> bool {
        matches!(self.session, Some(Session { stub: Stub::Running(_), .. }))
    }

    /// Passes the debugger's bytes to the stub until the guest resumes.
    fn converse(&mut self) -> Result<Talk, BackendError> {
        loop {
            let Some(mut session) = self.session.take() else { return Ok(Talk::Gone) };
            if matches!(session.stub, Stub::Running(_)) {
                let interrupted = session.input.is_waiting();
                self.session = Some(session);
                if !interrupted {
                    return Ok(Talk::Resumed);
                }
                // The debugger has sent more packets after the request to resume.
                self.hear()?;
                continue;
            }
            let stub = match session.input.wait(&self.stop) {
                Heard::Byte(byte) => self.feed(session.stub, byte),
                Heard::Nothing => Some(session.stub),
                Heard::Gone => {
                    log::warn!("the debugger has disconnected: the guest continues without it");
                    None
                }
                Heard::Stopped => {
                    self.session = Some(session);
                    return Ok(Talk::Ended);
                }
            };
            match stub {
                Some(Stub::Disconnected(mut stub)) if stub.get_reason() == DisconnectReason::Kill => {
                    log::warn!("the debugger has killed the guest");
                    stub.borrow_conn().confirm();
                    self.inferior.withdraw()?;
                    return Ok(Talk::Ended);
                }
                Some(Stub::Disconnected(_)) | None => {
                    self.inferior.withdraw()?;
                    return Ok(Talk::Gone);
                }
                Some(stub) => self.session = Some(Session { stub, ..session }),
            }
        }
    }

    /// Passes one byte from the debugger to the stub. Returns `None` if the connection has ended.
    fn feed(
        &mut self,
        stub: Stub<'static, Inferior<'m>, Output>,
        byte: u8,
    ) -> Option<Stub<'static, Inferior<'m>, Output>> {
        let inferior = &mut self.inferior;
        let fed = match stub {
            Stub::Idle(stub) => stub.incoming_data(inferior, byte),
            Stub::Running(stub) => stub.incoming_data(inferior, byte),
            stub => Ok(stub),
        };
        let answered = fed.and_then(|stub| match stub {
            Stub::CtrlCInterrupt(stub) => {
                inferior.look();
                stub.interrupt_handled(inferior, Some(StopReason::Signal(Signal::SIGINT)))
            }
            stub => Ok(stub),
        });
        answered.inspect_err(|error| log::warn!("invalid packet from the debugger: disconnecting: {error}")).ok()
    }

    /// Reads the packets for which the guest has been paused.
    fn hear(&mut self) -> Result<(), BackendError> {
        self.stop.unpause();
        while let Some(mut session) = self.session.take() {
            if !matches!(session.stub, Stub::Running(_)) {
                self.session = Some(session);
                break;
            }
            let stub = match session.input.next() {
                Heard::Byte(byte) => self.feed(session.stub, byte),
                Heard::Nothing => {
                    self.session = Some(session);
                    break;
                }
                Heard::Gone | Heard::Stopped => {
                    log::warn!("the debugger has disconnected: the guest continues without it");
                    None
                }
            };
            match stub {
                Some(stub) => self.session = Some(Session { stub, ..session }),
                None => self.inferior.withdraw()?,
            }
        }
        Ok(())
    }

    /// Reports to the debugger why the guest has stopped.
    fn report(&mut self, reason: StopReason) -> Result<(), BackendError> {
        self.inferior.look();
        let Some(Session { stub, input, watcher }) = self.session.take() else { return Ok(()) };
        let stub = match stub {
            Stub::Running(stub) => stub.report_stop(&mut self.inferior, reason),
            stub => Ok(stub),
        };
        match stub {
            Ok(stub) => self.session = Some(Session { stub, input, watcher }),
            Err(error) => {
                log::warn!("the debugger has disconnected: the guest continues without it: {error}");
                self.inferior.withdraw()?;
            }
        }
        Ok(())
    }

    /// Runs the guest until an exit for the monitor's loop or a stop for the debugger. Returns
    /// `None` for the latter.
    fn run_once(&mut self) -> Result<Option<Exit>, BackendError> {
        if let Some(exit) = self.over.take() {
            return Ok(Some(exit));
        }
        if let Some(start) = self.inferior.changed() {
            let kind = self.inferior.watch_kind(start);
            self.report(StopReason::Watch { tid: (), kind, addr: start })?;
            return Ok(None);
        }
        self.inferior.set_traps()?;
        if let Some(session) = &self.session {
            session.watcher.arm();
        }
        let Some(target) = self.inferior.target() else { return self.inferior.machine().run().map(Some) };
        let reason = match target.run_to_trap()? {
            Halt::Exit(Exit::Interrupted) if !self.stop.requested() => {
                self.hear()?;
                return Ok(None);
            }
            Halt::Exit(exit) => return self.exited(exit),
            Halt::Step if self.in_range()? => return Ok(None),
            Halt::Step => StopReason::DoneStep,
            Halt::SoftwareBreakpoint if self.breakpoint_kind()? == Some(Kind::Hardware) => StopReason::HwBreak(()),
            Halt::SoftwareBreakpoint => StopReason::SwBreak(()),
            Halt::Executed => StopReason::HwBreak(()),
            Halt::Watched(start) => StopReason::Watch { tid: (), kind: self.inferior.watch_kind(start), addr: start },
        };
        self.report(reason)?;
        Ok(None)
    }

    /// Returns an exit to the monitor's loop, after a report to the debugger if the exit is fatal.
    fn exited(&mut self, exit: Exit) -> Result<Option<Exit>, BackendError> {
        let signal = match &exit {
            Exit::Hypercall { number, .. } => {
                self.inferior.count(*number);
                return Ok(Some(exit));
            }
            Exit::Halted => Signal::SIGABRT,
            Exit::Fault(Fault { cause: Cause::Killed { .. }, .. }) | Exit::RingKick { .. } | Exit::Interrupted => {
                return Ok(Some(exit));
            }
            Exit::Fault(Fault { cause, .. }) => {
                log::warn!("{cause}");
                Signal::SIGSEGV
            }
        };
        self.over = Some(exit);
        self.report(StopReason::Signal(signal))?;
        Ok(None)
    }

    /// Returns the program counter.
    fn pc(&mut self) -> Result<u64, BackendError> {
        Ok(self.inferior.machine_ref().registers()?.pc())
    }

    fn in_range(&mut self) -> Result<bool, BackendError> {
        let Resume::Range(start, end) = self.inferior.how() else { return Ok(false) };
        let pc = self.pc()?;
        Ok((start..end).contains(&pc) && !self.inferior.must_be_seen(pc))
    }

    fn breakpoint_kind(&mut self) -> Result<Option<Kind>, BackendError> {
        let pc = self.pc()?;
        Ok(self.inferior.breakpoint_kind(pc))
    }
}

impl Vcpu for Debugged<'_> {
    type Error = BackendError;

    fn run(&mut self) -> Result<Exit, BackendError> {
        loop {
            if self.session.is_none() {
                if !std::mem::replace(&mut self.alone, true) {
                    // The last pause that the watcher may have requested.
                    self.stop.unpause();
                }
                return match self.over.take() {
                    Some(exit) => Ok(exit),
                    None => self.inferior.machine().run(),
                };
            }
            if !self.is_running()
                && let Talk::Ended = self.converse()?
            {
                return Ok(Exit::Interrupted);
            }
            if self.is_running()
                && let Some(exit) = self.run_once()?
            {
                return Ok(exit);
            }
        }
    }

    fn serve_again(&mut self) -> Result<bool, BackendError> {
        if self.stop.requested() || !self.stop.unpause() {
            // The wake-up is not for the debugger: the guest's process may have exited.
            return self.inferior.machine().serve_again();
        }
        self.hear()?;
        let talk = self.converse()?;
        if let (Talk::Resumed, Some(session)) = (&talk, &self.session) {
            session.watcher.arm();
        }
        Ok(!matches!(talk, Talk::Ended))
    }

    fn memory(&self) -> &dyn GuestMemory {
        self.inferior.machine_ref().memory()
    }

    fn registers(&self) -> Result<Registers, BackendError> {
        self.inferior.machine_ref().registers()
    }
}
