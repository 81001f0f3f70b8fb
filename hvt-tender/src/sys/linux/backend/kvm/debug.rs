//! Guest on KVM under a debugger: `KVM_SET_GUEST_DEBUG`. Breakpoint registers and debug exits are
//! specific to the architecture.

use hvt_abi::Gpa;
use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_debug_exit_arch, kvm_guest_debug};

use super::arch::debug as cpu;
use super::{KvmMachine, arch, kvm_error};
use crate::Vcpu;
use crate::backend::BackendError;
use crate::backend::debug::{CpuState, DebugTarget, Halt, Traps};
use crate::memory::GuestMemory;
use crate::sandbox::Calls;

pub(super) use self::cpu::Capacity;

/// Debugging state of a guest.
pub(super) struct Debugging {
    pub(super) capacity: Capacity,
    /// Debug exit of the last run, if it ended with one.
    pub(super) trap: Option<kvm_debug_exit_arch>,
    pub(super) traps: Traps,
    pub(super) registers: cpu::Breakpoints,
}

impl Debugging {
    /// State of a guest without a debugger.
    pub(super) fn new(capacity: Capacity) -> Self {
        Self { capacity, trap: None, traps: Traps::default(), registers: cpu::Breakpoints::default() }
    }
}

impl KvmMachine {
    /// Passes the traps to KVM, with the additional control bits `more` of the architecture.
    pub(super) fn apply(&self, more: u32) -> Result<(), BackendError> {
        let Debugging { traps, registers, .. } = &self.debugging;
        let mut control = more | registers.control() | if traps.step { KVM_GUESTDBG_SINGLESTEP } else { 0 };
        if !traps.software_breakpoints.is_empty() {
            control |= cpu::SOFTWARE_BREAKPOINTS;
        }
        if control != 0 {
            control |= KVM_GUESTDBG_ENABLE;
        }
        let debug = kvm_guest_debug { control, pad: 0, arch: registers.registers() };
        self.vcpu.set_guest_debug(&debug).map_err(|error| kvm_error("setting breakpoints", error))
    }

    /// Returns true if the debugger has written a breakpoint instruction at `address`.
    pub(super) fn is_planted(&self, address: u64) -> bool {
        self.debugging.traps.software_breakpoints.binary_search(&address).is_ok()
    }
}

impl DebugTarget for KvmMachine {
    fn state(&self) -> Result<CpuState, BackendError> {
        arch::state(&self.vcpu)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), BackendError> {
        let before = arch::state(&self.vcpu)?;
        self.before_change(&before, state)?;
        arch::set_state(&self.vcpu, &before, state)
    }

    fn translate(&self, address: u64) -> Option<Gpa> {
        arch::translate(&self.vcpu, &self.memory, address).filter(|at| at.0 < self.memory.size())
    }

    fn poke(&mut self, at: Gpa, bytes: &[u8]) -> Result<(), BackendError> {
        let written = self.memory.poke(at, bytes);
        cpu::synchronise(&self.memory, at, bytes.len());
        written.map_err(|source| BackendError { what: "writing guest memory", source })
    }

    fn set_traps(&mut self, traps: &Traps) -> Result<bool, BackendError> {
        let Some(registers) = cpu::Breakpoints::new(traps, self.debugging.capacity) else { return Ok(false) };
        self.debugging.traps = traps.clone();
        self.debugging.registers = registers;
        self.apply(0).map(|()| true)
    }

    fn run_to_trap(&mut self) -> Result<Halt, BackendError> {
        loop {
            let exit = self.run()?;
            let halt = match self.debugging.trap.take() {
                None => Some(self.exited(exit)?),
                Some(trap) => self.trapped(&trap)?,
            };
            if let Some(halt) = halt {
                return Ok(halt);
            }
        }
    }

    /// Writing read-only guest memory needs `mprotect` as well, which every thread may use.
    fn system_calls(&self, calls: &mut Calls) {
        self.allow(calls, &arch::WHILE_DEBUGGED);
    }

    fn describe(&self) -> Result<String, BackendError> {
        arch::describe(&self.vcpu)
    }
}
