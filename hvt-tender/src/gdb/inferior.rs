//! The guest as gdb sees it, which gdb calls the inferior.

use std::collections::BTreeMap;
use std::fmt::Display;

use gdbstub::arch::Arch;
use gdbstub::common::Signal;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadRangeStepping, SingleThreadRangeSteppingOps, SingleThreadResume,
    SingleThreadResumeOps, SingleThreadSingleStep, SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::MonitorCmdOps;
use gdbstub::target::{Target, TargetError, TargetResult};
use hvt_abi::{Gpa, PAGE_SIZE};

use super::architecture::{GdbRegisters, Native, must_be_seen};
use super::breakpoints::{Kind, SoftwareBreakpoint, SoftwareBreakpoints};
use crate::backend::debug::{BREAKPOINT_INSTRUCTION, DebugTarget, Traps, Watch};
use crate::backend::{BackendError, Machine};
use crate::error_chain::ErrorChain;
use crate::memory::MemoryMap;

/// Way in which the guest resumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Resume {
    /// Until an event.
    #[default]
    Continue,
    /// For one instruction.
    Step,
    /// While the program counter is in this range of addresses.
    Range(u64, u64),
}

/// Guest with breakpoints.
pub(crate) struct Inferior<'m> {
    machine: &'m mut dyn Machine,
    memory_map: &'m MemoryMap,
    breakpoints: SoftwareBreakpoints,
    /// Addresses of hardware breakpoints that the machine has accepted.
    executed: Vec<u64>,
    watches: Vec<Watched>,
    resume: Resume,
    /// Traps last set in the machine.
    traps: Traps,
    /// Number of calls of each hypercall, by its number.
    calls: BTreeMap<u32, u64>,
}

/// Watchpoint.
struct Watched {
    watch: Watch,
    kind: WatchKind,
    /// Contents when the debugger last stopped. A machine does not detect writes of hypercalls, so
    /// the contents are compared.
    contents: Vec<u8>,
}

/// Longest watchpoint in bytes.
const LONGEST_WATCH: u64 = 4096;

impl<'m> Inferior<'m> {
    /// Creates an inferior without breakpoints. Returns `None` if its machine cannot be debugged.
    pub(super) fn new(machine: &'m mut dyn Machine, memory_map: &'m MemoryMap) -> Option<Self> {
        machine.debug()?;
        Some(Self {
            machine,
            memory_map,
            breakpoints: SoftwareBreakpoints::default(),
            executed: Vec::new(),
            watches: Vec::new(),
            resume: Resume::Continue,
            traps: Traps::default(),
            calls: BTreeMap::new(),
        })
    }

    /// Returns the machine.
    pub(super) fn machine(&mut self) -> &mut dyn Machine {
        self.machine
    }

    /// Returns the machine by shared reference.
    pub(super) fn machine_ref(&self) -> &dyn Machine {
        self.machine
    }

    /// Returns the machine's interface for the debugger.
    pub(super) fn target(&mut self) -> Option<&mut dyn DebugTarget> {
        self.machine.debug()
    }

    /// Returns the memory map of the guest.
    pub(super) fn memory_map(&self) -> &MemoryMap {
        self.memory_map
    }

    /// Returns the number of calls of each hypercall.
    pub(super) fn calls(&self) -> &BTreeMap<u32, u64> {
        &self.calls
    }

    /// Counts a hypercall.
    pub(super) fn count(&mut self, number: u32) {
        *self.calls.entry(number).or_default() += 1;
    }

    /// Returns the way in which the debugger resumes the guest.
    pub(super) fn how(&self) -> Resume {
        self.resume
    }

    /// Returns the kind of the software breakpoint at this address, if there is one in memory.
    pub(super) fn breakpoint_kind(&self, address: u64) -> Option<Kind> {
        self.breakpoints.kind(address)
    }

    /// Returns whether the debugger must see the instruction at this address before a step.
    pub(super) fn must_be_seen(&mut self, address: u64) -> bool {
        must_be_seen(|| {
            let mut instruction = [0; 4];
            self.read(address, &mut instruction);
            instruction
        })
    }

    /// Returns the kind of the watchpoint that begins at this address.
    pub(super) fn watch_kind(&self, start: u64) -> WatchKind {
        self.watches
            .iter()
            .find(|watched| watched.watch.start == start)
            .map_or(WatchKind::Write, |watched| watched.kind)
    }

    /// Returns the address of a watchpoint whose contents have changed since the debugger last
    /// stopped.
    pub(super) fn changed(&mut self) -> Option<u64> {
        let changed = (0..self.watches.len()).find(|index| {
            let watch = self.watches[*index].watch;
            self.contents(watch).is_some_and(|now| now != self.watches[*index].contents)
        });
        changed.map(|index| self.watches[index].watch.start)
    }

    /// Stores the current contents of the watchpoints: the debugger stops here.
    pub(super) fn look(&mut self) {
        for index in 0..self.watches.len() {
            let watch = self.watches[index].watch;
            if let Some(contents) = self.contents(watch) {
                self.watches[index].contents = contents;
            }
        }
    }

    fn contents(&mut self, watch: Watch) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(watch.len).ok()?];
        (self.read(watch.start, &mut bytes) == bytes.len()).then_some(bytes)
    }

    /// Sets the traps of the next run in the machine.
    pub(super) fn set_traps(&mut self) -> Result<bool, BackendError> {
        let traps = Traps {
            step: self.resume != Resume::Continue,
            software_breakpoints: self.breakpoints.addresses(),
            executed: self.executed.clone(),
            watched: self.watches.iter().map(|watched| watched.watch).collect(),
        };
        if traps == self.traps {
            return Ok(true);
        }
        let Some(target) = self.target() else { return Ok(false) };
        let done = target.set_traps(&traps)?;
        if done {
            self.traps = traps;
        }
        Ok(done)
    }

    /// Removes everything that the debugger has put into the guest.
    pub(super) fn withdraw(&mut self) -> Result<(), BackendError> {
        for breakpoint in self.breakpoints.clear() {
            self.remove_breakpoint(breakpoint)?;
        }
        self.executed.clear();
        self.watches.clear();
        self.resume = Resume::Continue;
        self.set_traps().map(|_| ())
    }

    fn remove_breakpoint(&mut self, breakpoint: SoftwareBreakpoint) -> Result<(), BackendError> {
        self.poke(breakpoint.at, &breakpoint.original)
    }

    fn poke(&mut self, at: Gpa, bytes: &[u8]) -> Result<(), BackendError> {
        self.target().map_or(Ok(()), |target| target.poke(at, bytes))
    }

    /// Reads guest-virtual memory up to the first unmapped byte. Returns the number of bytes.
    fn read(&mut self, start: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        for (at, len) in pages(start, into.len()) {
            let Some(found) = self.target().and_then(|target| target.translate(at)) else { break };
            let piece = &mut into[done..done + len];
            if self.machine.memory().read(found, piece).is_err() {
                break;
            }
            self.breakpoints.hide(found, piece);
            done += len;
        }
        done
    }

    /// Writes guest-virtual memory. Writes nothing if a part of the range is unmapped.
    fn write(&mut self, start: u64, from: &[u8]) -> TargetResult<(), Self> {
        let mut pieces = Vec::new();
        let mut done = 0;
        for (at, len) in pages(start, from.len()) {
            let found = self.target().and_then(|target| target.translate(at)).ok_or(UNMAPPED)?;
            if found.0.checked_add(len as u64).is_none_or(|end| end > self.machine.memory().size()) {
                return Err(UNMAPPED);
            }
            pieces.push((found, from[done..done + len].to_vec()));
            done += len;
        }
        if done < from.len() {
            return Err(UNMAPPED);
        }
        for (at, mut bytes) in pieces {
            self.breakpoints.keep(at, &mut bytes);
            self.poke(at, &bytes).map_err(|error| refused(ErrorChain::of(&error)))?;
        }
        self.look();
        Ok(())
    }

    fn breakpoint(&mut self, address: u64, kind: Kind) -> TargetResult<bool, Self> {
        // No instruction begins at an unaligned address, and two breakpoints would overlap there.
        if !address.is_multiple_of(BREAKPOINT_INSTRUCTION.len() as u64) {
            return Ok(false);
        }
        let at = self.target().and_then(|target| target.translate(address));
        let mut original = [0; BREAKPOINT_INSTRUCTION.len()];
        let Some(at) = at.filter(|at| self.machine.memory().read(*at, &mut original).is_ok()) else { return Ok(false) };
        if self.breakpoints.add(address, kind, at, original) {
            self.poke(at, &BREAKPOINT_INSTRUCTION).map_err(|error| refused(ErrorChain::of(&error)))?;
        }
        Ok(true)
    }

    fn remove_plant(&mut self, address: u64, kind: Kind) -> TargetResult<bool, Self> {
        match self.breakpoints.remove(address, kind) {
            Some(Some(breakpoint)) => {
                self.remove_breakpoint(breakpoint).map_err(|error| refused(ErrorChain::of(&error))).map(|()| true)
            }
            Some(None) => Ok(true),
            None => Ok(false),
        }
    }
}

/// Error for an unmapped address: EFAULT.
const UNMAPPED: TargetError<BackendError> = TargetError::Errno(14);

/// Converts an error into a non-fatal error for the debugger, and logs it.
fn refused(error: impl Display) -> TargetError<BackendError> {
    log::debug!("request of the debugger failed: {error}");
    TargetError::NonFatal
}

/// Splits `len` bytes at `start` into pieces within one page each. Stops before the address wraps
/// around.
fn pages(start: u64, len: usize) -> impl Iterator<Item = (u64, usize)> {
    let mut next = Some(start);
    let mut left = len as u64;
    std::iter::from_fn(move || {
        let at = next.filter(|_| left > 0)?;
        let piece = left.min(PAGE_SIZE - at % PAGE_SIZE);
        left -= piece;
        next = at.checked_add(piece);
        Some((at, piece as usize))
    })
}

impl Target for Inferior<'_> {
    type Arch = Native;
    type Error = BackendError;

    fn base_ops(&mut self) -> BaseOps<'_, Native, BackendError> {
        BaseOps::SingleThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadBase for Inferior<'_> {
    fn read_registers(&mut self, registers: &mut <Native as Arch>::Registers) -> TargetResult<(), Self> {
        let target = self.target().ok_or(TargetError::NonFatal)?;
        *registers = GdbRegisters::from(&target.state().map_err(|error| refused(ErrorChain::of(&error)))?);
        Ok(())
    }

    fn write_registers(&mut self, registers: &<Native as Arch>::Registers) -> TargetResult<(), Self> {
        let target = self.target().ok_or(TargetError::NonFatal)?;
        let before = target.state().map_err(|error| refused(ErrorChain::of(&error)))?;
        let after = registers.apply(&before).map_err(|fixed| refused(format_args!("{fixed:?}")))?;
        target.set_state(&after).map_err(|error| refused(ErrorChain::of(&error)))
    }

    fn read_addrs(&mut self, start: u64, into: &mut [u8]) -> TargetResult<usize, Self> {
        match self.read(start, into) {
            0 if !into.is_empty() => Err(UNMAPPED),
            done => Ok(done),
        }
    }

    fn write_addrs(&mut self, start: u64, from: &[u8]) -> TargetResult<(), Self> {
        self.write(start, from)
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

/// A guest has no signals, so signals from the debugger are ignored.
impl SingleThreadResume for Inferior<'_> {
    fn resume(&mut self, _: Option<Signal>) -> Result<(), BackendError> {
        self.resume = Resume::Continue;
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<SingleThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadSingleStep for Inferior<'_> {
    fn step(&mut self, _: Option<Signal>) -> Result<(), BackendError> {
        self.resume = Resume::Step;
        Ok(())
    }
}

impl SingleThreadRangeStepping for Inferior<'_> {
    fn resume_range_step(&mut self, start: u64, end: u64) -> Result<(), BackendError> {
        self.resume = Resume::Range(start, end);
        Ok(())
    }
}

impl Breakpoints for Inferior<'_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Inferior<'_> {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        self.breakpoint(address, Kind::Software)
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        self.remove_plant(address, Kind::Software)
    }
}

impl HwBreakpoint for Inferior<'_> {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        if self.executed.contains(&address) {
            return Ok(true);
        }
        self.executed.push(address);
        if self.set_traps().map_err(|error| refused(ErrorChain::of(&error)))? {
            return Ok(true);
        }
        // The machine has no hardware breakpoint, or none left.
        self.executed.pop();
        self.breakpoint(address, Kind::Hardware)
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        let before = self.executed.len();
        self.executed.retain(|known| *known != address);
        match self.executed.len() < before {
            true => self.set_traps().map_err(|error| refused(ErrorChain::of(&error))),
            false => self.remove_plant(address, Kind::Hardware),
        }
    }
}

impl HwWatchpoint for Inferior<'_> {
    fn add_hw_watchpoint(&mut self, start: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let watch = Watch { start, len, reads: kind != WatchKind::Write };
        if !(1..=LONGEST_WATCH).contains(&len) {
            return Ok(false);
        }
        let Some(contents) = self.contents(watch) else { return Ok(false) };
        self.watches.push(Watched { watch, kind, contents });
        let done = self.set_traps().map_err(|error| refused(ErrorChain::of(&error)));
        if !matches!(done, Ok(true)) {
            self.watches.pop();
        }
        done
    }

    fn remove_hw_watchpoint(&mut self, start: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let reads = kind != WatchKind::Write;
        let found = self.watches.iter().position(|watched| watched.watch == Watch { start, len, reads });
        let Some(index) = found else { return Ok(false) };
        self.watches.remove(index);
        self.set_traps().map_err(|error| refused(ErrorChain::of(&error)))
    }
}
