//! What a debugger asks of a backend: all registers of the virtual CPU, and runs that end where it wants them to.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(test)]
pub(crate) mod conformance;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use hvt_abi::Gpa;

#[cfg(target_arch = "aarch64")]
pub use self::aarch64::{BREAKPOINT_INSTRUCTION, CpuState, FpState};
#[cfg(target_arch = "x86_64")]
pub use self::x86_64::{BREAKPOINT_INSTRUCTION, CpuState, FxState, Segments};
use super::BackendError;
use crate::exit::Exit;
use crate::sandbox::Calls;

/// A machine whose guest can be looked into, and stopped anywhere. All of it is for a guest that does not run.
pub trait DebugTarget {
    /// All registers.
    ///
    /// # Errors
    /// When the backend itself fails.
    fn state(&self) -> Result<CpuState, BackendError>;

    /// Changes the registers, those that can be changed.
    ///
    /// # Errors
    /// When the backend itself fails, or the CPU can hold no such value.
    fn set_state(&mut self, state: &CpuState) -> Result<(), BackendError>;

    /// Where the byte at this guest-virtual address lies, as the guest's page tables are now; `None` where it is not
    /// mapped.
    fn translate(&self, address: u64) -> Option<Gpa>;

    /// Writes guest memory, also where it is read-only for the guest.
    ///
    /// # Errors
    /// Returns [`BackendError`] if a byte lies outside of guest memory, or the host refuses the write.
    fn poke(&mut self, at: Gpa, bytes: &[u8]) -> Result<(), BackendError>;

    /// Says where the runs from now on end. Returns whether the machine can do that; where it cannot, nothing changes.
    ///
    /// # Errors
    /// When the backend itself fails.
    fn set_traps(&mut self, traps: &Traps) -> Result<bool, BackendError>;

    /// Runs the guest like [`Vcpu::run`](crate::Vcpu::run), to one of the traps at most.
    ///
    /// # Errors
    /// When the backend itself fails.
    fn run_to_trap(&mut self) -> Result<Halt, BackendError>;

    /// Allows the system calls that the guest's thread makes through this, beyond those of the
    /// [machine](super::Machine::system_calls).
    fn system_calls(&self, _calls: &mut Calls) {}

    /// Allows the system calls with which another thread makes the guest [pause](super::CancelToken::pause).
    fn calls_to_pause(&self, _calls: &mut Calls) {}

    /// Registers of the system, for people: one `name value` a line.
    ///
    /// # Errors
    /// When the backend itself fails.
    fn describe(&self) -> Result<String, BackendError>;
}

/// Where a run is to end. No traps at all is what a guest without a debugger has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traps {
    /// After one instruction.
    pub step: bool,
    /// At these guest-virtual addresses, in ascending order, where the debugger has put [`BREAKPOINT_INSTRUCTION`] instructions. One
    /// elsewhere is the guest's own.
    pub software_breakpoints: Vec<u64>,
    /// Before the instructions at these guest-virtual addresses is executed. Memory stays as it is.
    pub executed: Vec<u64>,
    /// At an access to these bytes.
    pub watched: Vec<Watch>,
}

/// Bytes that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Guest-virtual address of the first.
    pub start: u64,
    /// How many.
    pub len: u64,
    /// Reads end a run as well as writes.
    pub reads: bool,
}

impl Watch {
    /// One past the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// Why a run came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// As it would without traps. [`Exit::Interrupted`] is also the answer to [`CancelToken::pause`](super::CancelToken::pause).
    Exit(Exit),
    /// One instruction has been executed.
    Step,
    /// The program counter is at one of [`Traps::software_breakpoints`].
    SoftwareBreakpoint,
    /// The program counter is at one of [`Traps::executed`].
    Executed,
    /// The [`Watch`] that begins at this guest-virtual address: its bytes have been accessed (x86_64), or the instruction
    /// at the program counter is about to (aarch64). Debuggers know which of the two it is.
    Watched(u64),
}
