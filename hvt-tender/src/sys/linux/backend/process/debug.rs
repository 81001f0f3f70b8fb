//! Debugger support for the guest of a sandboxed process.
//!
//! The child cannot be traced and has no debug registers, so that only features of a process are
//! left. A `hlt` ends a run as SIGSEGV. RFLAGS.TF in the signal frame makes the guest execute one
//! instruction. Pages with watchpoints are closed to the guest: an instruction that accesses a
//! closed page raises SIGSEGV; the page is opened, the instruction is executed with TF set, and the
//! page is closed again. A write to watched bytes is then found by comparing their contents, a read
//! by the address and the length of the access.

use std::mem;

use hvt_abi::x86_64::{Registers, Vector};
use hvt_abi::{Gpa, GuestRange, PAGE_SIZE};

use super::cpu::RFLAGS_TF;
use super::emulate;
use super::frame::{BadFrame, Frame, Signal};
use super::guards::Guards;
use super::protocol::command;
use super::setup::Script;
use super::{ProcessMachine, RELAXED};
use crate::Vcpu;
use crate::backend::BackendError;
use crate::backend::debug::{CpuState, DebugTarget, Halt, Traps, Watch};
use crate::exit::{Cause, Exit, Fault};
use crate::memory::{GuestMemory, Permissions};
use crate::sandbox::Calls;

/// Debugging state of a guest.
#[derive(Debug)]
pub(super) struct Debugging {
    /// The child is able to close pages.
    watchpoints: bool,
    traps: Traps,
    guards: Guards,
    /// The tender has emulated the single instruction of a step, and the run ended for it. The next
    /// run ends at once.
    stepped: bool,
}

impl Debugging {
    pub(super) fn new(watchpoints: bool) -> Self {
        Self { watchpoints, traps: Traps::default(), guards: Guards::default(), stepped: false }
    }
}

/// Execution of an instruction with pages opened.
#[derive(Default)]
struct Opened {
    pages: Vec<u64>,
    /// Contents of each watchpoint before the instruction.
    before: Vec<Vec<u8>>,
    /// Start of a watchpoint whose bytes the instruction accesses.
    accessed: Option<u64>,
}

impl ProcessMachine {
    /// Runs the guest until the child hands over, with these pages opened, and for one instruction
    /// if `step`.
    fn run_debugged(&mut self, opened: &[u64], step: bool) -> Result<Option<Exit>, BackendError> {
        let changes = self.debugging.guards.changes(opened, &self.memory_map);
        if !changes.is_empty() {
            // Fits: `Guards` limits the number of changes.
            self.exchange.write_script(Script::protect(&changes).words());
            let command = &self.exchange.header().command;
            command.store(command.load(RELAXED) | command::RUN_SCRIPT, RELAXED);
        }
        let before = self.frame()?.registers();
        if step {
            self.frame()?.set(libc::REG_EFL, before.rflags | RFLAGS_TF);
        }
        let exit = self.run_child()?;
        if step && let Ok(frame) = Frame::current(&self.exchange) {
            self.take_trap_flag_back(&before, &frame);
        }
        Ok(exit)
    }

    /// Restores RFLAGS.TF to the guest's value.
    fn take_trap_flag_back(&self, before: &Registers, frame: &Frame<'_>) {
        let executed = is_step(&frame.signal());
        match self.flags_instruction(before.rip).filter(|_| executed) {
            // The guest has just loaded TF.
            Some(Flags::Loaded) => return,
            // Hides the debugger's TF from the guest.
            Some(Flags::Stored) if before.rflags & RFLAGS_TF == 0 => {
                let byte = Gpa(frame.get(libc::REG_RSP).wrapping_add(1));
                let mut flags = [0];
                if self.memory.read(byte, &mut flags).is_ok() {
                    let _ = self.memory.write(byte, &[flags[0] & !1]);
                }
            }
            _ => {}
        }
        let flags = frame.get(libc::REG_EFL);
        frame.set(libc::REG_EFL, flags & !RFLAGS_TF | before.rflags & RFLAGS_TF);
    }

    /// Returns the kind of the instruction at `rip` if it is POPF or PUSHF, behind any prefixes.
    fn flags_instruction(&self, rip: u64) -> Option<Flags> {
        let mut bytes = [0; 4];
        self.memory.read(Gpa(rip), &mut bytes).ok()?;
        match bytes.into_iter().find(|byte| !matches!(byte, 0x66 | 0x40..=0x4f))? {
            0x9c => Some(Flags::Stored),
            0x9d => Some(Flags::Loaded),
            _ => None,
        }
    }

    /// Contents of the watchpoints.
    fn watched(&self) -> Vec<Vec<u8>> {
        let contents = |watch: &Watch| {
            let mut bytes = vec![0; watch.len as usize];
            // Mapped: `set_traps` has checked it.
            let _ = self.memory.read(Gpa(watch.start), &mut bytes);
            bytes
        };
        self.debugging.traps.watched.iter().map(contents).collect()
    }

    /// Records an access to a closed page that the guest has the permission to make. Returns false
    /// for any other signal.
    fn open(&self, signal: &Signal, rip: u64, opened: &mut Opened) -> bool {
        let page = signal.cr2 & !(PAGE_SIZE - 1);
        let is_page_fault = signal.number == libc::SIGSEGV && signal.vector == Vector::PageFault as u64;
        let allowed = self.memory_map.region_at(Gpa(page)).is_some_and(|region| region.access.contains(access(signal)));
        if !is_page_fault || !allowed || !self.debugging.guards.contains(page) || opened.pages.contains(&page) {
            return false;
        }
        if opened.pages.is_empty() {
            opened.before = self.watched();
        }
        let mut bytes = [0; emulate::LONGEST as usize];
        let space = crate::memory::GuestSpace::new(&self.memory, &self.memory_map);
        let len = emulate::fetch(rip, &space, &mut bytes).and_then(|len| emulate::accessed(&bytes[..len]));
        let end = signal.cr2.saturating_add(len.unwrap_or(LONGEST_ACCESS));
        let touches = |watch: &&Watch| watch.reads && watch.start < end && signal.cr2 < watch.end();
        if access(signal) != Permissions::EXECUTE
            && let Some(watch) = self.debugging.traps.watched.iter().find(touches)
        {
            opened.accessed.get_or_insert(watch.start);
        }
        opened.pages.push(page);
        true
    }

    /// Called after the instruction that had pages opened. Returns the start of a watchpoint that
    /// it accessed.
    fn close(&self, opened: Opened) -> Option<u64> {
        if opened.pages.is_empty() {
            return None;
        }
        let now = self.watched();
        let pairs = self.debugging.traps.watched.iter().zip(opened.before.iter().zip(&now));
        let written = pairs.into_iter().find(|(_, (before, now))| before != now).map(|(watch, _)| watch.start);
        written.or(opened.accessed)
    }
}

/// Effect of an instruction on all of RFLAGS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flags {
    Loaded,
    Stored,
}

/// Largest number of bytes that an instruction accesses, except one that saves the FPU state.
const LONGEST_ACCESS: u64 = 64;

/// Kind of the access to a closed page (SDM figure 4-12).
fn access(signal: &Signal) -> Permissions {
    match signal.error {
        error if error & 1 << 4 != 0 => Permissions::EXECUTE,
        error if error & 1 << 1 != 0 => Permissions::WRITE,
        _ => Permissions::READ,
    }
}

/// Returns true if the guest has executed an instruction with TF set.
fn is_step(signal: &Signal) -> bool {
    signal.number == libc::SIGTRAP && signal.code > 0 && signal.vector == Vector::Debug as u64
}

impl DebugTarget for ProcessMachine {
    fn state(&self) -> Result<CpuState, BackendError> {
        let registers = self.registers()?;
        Ok(CpuState { registers, segments: self.cpu.segments(), fpu: self.frame()?.fpu() })
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), BackendError> {
        let frame = self.frame()?;
        // The kernel preserves the flags that do not belong to the guest.
        frame.set_registers(&state.registers);
        let fpu = frame.fpu();
        if state.fpu != fpu {
            frame.set_fpu(&state.fpu);
        }
        let (mut wanted, header) = (0, self.exchange.header());
        if state.segments.fs_base != self.cpu.fs_base {
            self.cpu.fs_base = state.segments.fs_base;
            header.fs_base.store(self.cpu.fs_base, RELAXED);
            wanted |= command::SET_FS_BASE;
        }
        if state.segments.gs_base != self.cpu.gs_base {
            self.cpu.gs_base = state.segments.gs_base;
            header.gs_base.store(self.cpu.gs_base, RELAXED);
            wanted |= command::SET_GS_BASE;
        }
        if wanted != 0 {
            let how = if self.by_system_call { command::BY_SYSTEM_CALL } else { 0 };
            header.command.store(header.command.load(RELAXED) | wanted | how, RELAXED);
        }
        Ok(())
    }

    /// Guest-virtual and guest-physical addresses of mapped memory are equal here.
    fn translate(&self, address: u64) -> Option<Gpa> {
        self.memory_map.region_at(Gpa(address)).map(|_| Gpa(address))
    }

    fn poke(&mut self, at: Gpa, bytes: &[u8]) -> Result<(), BackendError> {
        let replaced = GuestRange::new(at, bytes.len() as u64).is_some_and(|range| self.direct.replaces(range));
        if replaced {
            let source = std::io::Error::other("its process executes a copy of this code");
            return Err(BackendError { what: "writing guest memory", source });
        }
        // The tender's mapping of guest memory is never read-only.
        let written = self.memory.write(at, bytes).map_err(std::io::Error::other);
        written.map_err(|source| BackendError { what: "writing guest memory", source })
    }

    fn set_traps(&mut self, traps: &Traps) -> Result<bool, BackendError> {
        if !traps.executed.is_empty() || !traps.watched.is_empty() && !self.debugging.watchpoints {
            return Ok(false);
        }
        let guarded = self.debugging.guards.set(&traps.watched, &self.memory_map);
        if guarded {
            self.debugging.traps = traps.clone();
        }
        Ok(guarded)
    }

    fn run_to_trap(&mut self) -> Result<Halt, BackendError> {
        if mem::take(&mut self.debugging.stepped) && self.debugging.traps.step {
            return Ok(Halt::Step);
        }
        let mut opened = Opened::default();
        loop {
            if self.stop.requested() {
                return Ok(Halt::Exit(Exit::Interrupted));
            }
            let step = self.debugging.traps.step || !opened.pages.is_empty();
            if let Some(exit) = self.run_debugged(&opened.pages, step)? {
                return Ok(Halt::Exit(exit));
            }
            let Ok(frame) = Frame::current(&self.exchange).map_err(|BadFrame| ()) else {
                let what = "its process reported an invalid signal frame".into();
                return Ok(Halt::Exit(Exit::Fault(Fault { cause: Cause::Killed { what }, registers: None })));
            };
            let (signal, rip) = (frame.signal(), frame.get(libc::REG_RIP));
            if signal.code <= 0 && signal.number != libc::SIGSYS {
                // Sent by the tender or another process: no instruction has been executed.
                frame.forget_sender();
                match self.stop.paused() {
                    true => return Ok(Halt::Exit(Exit::Interrupted)),
                    false => continue,
                }
            }
            let is_privileged = signal.number == libc::SIGSEGV && signal.vector == Vector::GeneralProtection as u64;
            if is_privileged && self.debugging.traps.software_breakpoints.binary_search(&rip).is_ok() {
                return Ok(Halt::SoftwareBreakpoint);
            }
            if self.open(&signal, rip, &mut opened) {
                continue;
            }
            // If the guest has set TF too, it receives the trap as well.
            let exit = match step && is_step(&signal) && frame.get(libc::REG_EFL) & RFLAGS_TF == 0 {
                true => None,
                false => self.handle(),
            };
            let hit = self.close(mem::take(&mut opened));
            match (exit, hit) {
                (Some(exit), _) => {
                    self.debugging.stepped = self.debugging.traps.step;
                    return Ok(Halt::Exit(exit));
                }
                (None, Some(start)) => return Ok(Halt::Watched(start)),
                (None, None) if self.debugging.traps.step => return Ok(Halt::Step),
                (None, None) => {}
            }
        }
    }

    /// All other communication uses the exchange pages.
    fn calls_to_pause(&self, calls: &mut Calls) {
        self.child.calls_to_pause(calls);
    }

    fn describe(&self) -> Result<String, BackendError> {
        let cpu = &self.cpu;
        Ok(format!(
            "cr0 {:#x}\ncr2 {:#x}\ncr3 {:#x}\ncr4 {:#x}\nefer {:#x}\n\
             gdtr {:#x}, limit {:#x}\nidtr {:#x}, limit {:#x}\ntr {:#x}, limit {:#x}\n",
            cpu.cr0.bits(),
            cpu.cr2,
            cpu.cr3,
            cpu.cr4().bits(),
            cpu.efer.bits(),
            cpu.gdtr.base,
            cpu.gdtr.limit,
            cpu.idtr.base,
            cpu.idtr.limit,
            cpu.task.0,
            cpu.task.1
        ))
    }
}
