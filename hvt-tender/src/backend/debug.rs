//! Backend interface for debuggers: all registers of the virtual CPU, and runs that end at traps.

#[cfg(test)]
pub(crate) mod conformance;

use hvt_abi::Gpa;

use super::BackendError;
pub(crate) use super::arch::debug::*;
use crate::exit::Exit;
use crate::sandbox::Calls;

/// Machine whose guest can be inspected and stopped anywhere. The guest must not be running during
/// any call except [`run_to_trap`](Self::run_to_trap).
pub trait DebugTarget {
    /// Returns all registers.
    ///
    /// # Errors
    /// Returns [`BackendError`] if the backend fails.
    fn state(&self) -> Result<CpuState, BackendError>;

    /// Sets the registers that can be changed.
    ///
    /// # Errors
    /// Returns [`BackendError`] if the backend fails, or if a value is invalid for the CPU.
    fn set_state(&mut self, state: &CpuState) -> Result<(), BackendError>;

    /// Translates a guest-virtual address with the guest's current page tables. Returns `None` if
    /// the address is not mapped.
    fn translate(&self, address: u64) -> Option<Gpa>;

    /// Writes guest memory, including memory that is read-only for the guest.
    ///
    /// # Errors
    /// Returns [`BackendError`] if a byte lies outside guest memory or a system call fails.
    fn poke(&mut self, at: Gpa, bytes: &[u8]) -> Result<(), BackendError>;

    /// Sets the traps for all following runs. Returns false, without any change, if the machine
    /// does not support them.
    ///
    /// # Errors
    /// Returns [`BackendError`] if the backend fails.
    fn set_traps(&mut self, traps: &Traps) -> Result<bool, BackendError>;

    /// Runs the guest like [`Vcpu::run`](crate::Vcpu::run), but at most to the next trap.
    ///
    /// # Errors
    /// Returns [`BackendError`] if the backend fails.
    fn run_to_trap(&mut self) -> Result<Halt, BackendError>;

    /// Allows the system calls that the guest's thread makes through this interface, in addition to
    /// [`Machine::system_calls`](super::Machine::system_calls).
    fn system_calls(&self, _calls: &mut Calls) {}

    /// Allows the system calls with which another thread makes the guest [pause](super::CancelToken::pause).
    fn calls_to_pause(&self, _calls: &mut Calls) {}

    /// Describes the system registers for people, one `name value` a line.
    ///
    /// # Errors
    /// Returns [`BackendError`] if the backend fails.
    fn describe(&self) -> Result<String, BackendError>;
}

/// Conditions that end a run. A guest without a debugger has no traps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traps {
    /// End after one instruction.
    pub step: bool,
    /// Guest-virtual addresses, in ascending order, at which the debugger has written
    /// [`BREAKPOINT_INSTRUCTION`]. The same instruction at any other address belongs to the guest.
    pub software_breakpoints: Vec<u64>,
    /// Guest-virtual addresses of instructions before which a run ends. Guest memory is not
    /// modified.
    pub executed: Vec<u64>,
    /// Bytes whose access ends a run.
    pub watched: Vec<Watch>,
}

/// Watchpoint: a range of watched bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Guest-virtual address of the first byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
    /// If set, reads end a run as well as writes.
    pub reads: bool,
}

impl Watch {
    /// First address after the range.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// Reason for the end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Exit that does not depend on traps. After [`CancelToken::pause`](super::CancelToken::pause)
    /// it is [`Exit::Interrupted`].
    Exit(Exit),
    /// One instruction has been executed.
    Step,
    /// The program counter is at one of [`Traps::software_breakpoints`].
    SoftwareBreakpoint,
    /// The program counter is at one of [`Traps::executed`].
    Executed,
    /// Access to the [`Watch`] that starts at this guest-virtual address. The access has happened
    /// on x86_64; on aarch64 the instruction at the program counter is about to make it. Debuggers
    /// expect the convention of each architecture.
    Watched(u64),
}
