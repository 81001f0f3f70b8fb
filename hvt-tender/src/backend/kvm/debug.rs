//! A guest of KVM under a debugger: `KVM_SET_GUEST_DEBUG`. Software breakpoints are `hlt` instructions, which end a run as
//! they do without a debugger.
//!
//! Breakpoint and watchpoint registers are the CPU's (SDM volume 3, 17.2): four, each for an instruction, or for data of
//! 1, 2, 4 or 8 bytes at a multiple of that. The guest's own debug registers have no effect meanwhile.

use hvt_abi::Gpa;
use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_DB, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, kvm_debug_exit_arch,
    kvm_guest_debug, kvm_guest_debug_arch,
};

use super::{KvmMachine, arch, kvm_error};
use crate::backend::debug::{CpuState, DebugTarget, Halt, Traps};
use crate::backend::{Error, Machine};
use crate::exit::Exit;
use crate::memory::{GuestMemory, Layout};
use crate::sandbox::Calls;

/// What is to be known of a guest that may be debugged.
#[derive(Default)]
pub(super) struct Debugging {
    /// Why the last run ended, if it was for the debugger.
    pub(super) trap: Option<kvm_debug_exit_arch>,
    traps: Traps,
    registers: Vec<Breakpoint>,
}

/// What one of the registers DR0 to DR3 watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Breakpoint {
    address: u64,
    /// R/W and LEN of DR7 (SDM volume 3, 17.2.4), four bits.
    condition: u64,
    halt: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Executed,
    /// The [`Watch`](crate::backend::debug::Watch) that begins here.
    Watched(u64),
}

/// DR6.BS: a single step.
const DR6_STEP: u64 = 1 << 14;

/// The debug registers for these traps; `None` where they are not enough.
fn breakpoints(traps: &Traps) -> Option<Vec<Breakpoint>> {
    let execute = |address: &u64| Breakpoint { address: *address, condition: 0, halt: What::Executed };
    let mut found: Vec<_> = traps.executed.iter().map(execute).collect();
    for watch in &traps.watched {
        let mut address = watch.start;
        while address < watch.end() {
            let fits = |len: &u64| address.is_multiple_of(*len) && watch.end() - address >= *len;
            let len = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
            let length = match len {
                8 => 0b10,
                len => len - 1,
            };
            let condition = length << 2 | if watch.reads { 0b11 } else { 0b01 };
            found.push(Breakpoint { address, condition, halt: What::Watched(watch.start) });
            if found.len() > 4 {
                return None;
            }
            address += len;
        }
    }
    (found.len() <= 4).then_some(found)
}

/// DR0 to DR7 for these breakpoints: all of them enabled globally, exact, bit 10 set as it must be.
fn debug_registers(breakpoints: &[Breakpoint]) -> [u64; 8] {
    let mut registers = [0; 8];
    let mut control = 1 << 9 | 1 << 10;
    for (index, breakpoint) in breakpoints.iter().enumerate().take(4) {
        registers[index] = breakpoint.address;
        control |= 1 << (2 * index + 1) | breakpoint.condition << (16 + 4 * index);
    }
    registers[7] = control;
    registers
}

impl KvmMachine {
    /// Tells KVM what the traps are, and which exceptions to inject that were the guest's own: `KVM_GUESTDBG_INJECT_*`.
    fn apply(&self, inject: u32) -> Result<(), Error> {
        let Debugging { traps, registers, .. } = &self.debugging;
        let mut control = inject;
        if traps.step {
            control |= KVM_GUESTDBG_SINGLESTEP;
        }
        if !registers.is_empty() {
            control |= KVM_GUESTDBG_USE_HW_BP;
        }
        if control != 0 {
            control |= KVM_GUESTDBG_ENABLE;
        }
        let debugreg = debug_registers(registers);
        let debug = kvm_guest_debug { control, pad: 0, arch: kvm_guest_debug_arch { debugreg } };
        self.vcpu.set_guest_debug(&debug).map_err(|error| kvm_error("setting breakpoints", error))
    }

    /// What the trap is to the debugger; `None` where it is the guest's own.
    fn halt(&self, trap: &kvm_debug_exit_arch) -> Option<Halt> {
        let Debugging { traps, registers, .. } = &self.debugging;
        let hit = (0..).zip(registers).find(|(index, _)| trap.dr6 >> index & 1 == 1);
        match hit.map(|(_, breakpoint)| breakpoint.halt) {
            Some(What::Executed) => Some(Halt::Executed),
            Some(What::Watched(start)) => Some(Halt::Watched(start)),
            None => (traps.step && trap.dr6 & DR6_STEP != 0).then_some(Halt::Step),
        }
    }
}

impl KvmMachine {
    /// The guest has executed a `hlt`, RIP being behind it.
    fn halted(&mut self) -> Result<Halt, Error> {
        let mut registers = self.vcpu.get_regs().map_err(|error| kvm_error("reading the vCPU's registers", error))?;
        let at = registers.rip.wrapping_sub(1);
        if self.debugging.traps.planted.binary_search(&at).is_err() {
            return Ok(Halt::Exit(Exit::Halted));
        }
        registers.rip = at;
        self.vcpu.set_regs(&registers).map_err(|error| kvm_error("setting the vCPU's registers", error))?;
        Ok(Halt::Planted)
    }
}

impl DebugTarget for KvmMachine {
    fn state(&self) -> Result<CpuState, Error> {
        arch::state(&self.vcpu)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), Error> {
        let before = arch::state(&self.vcpu)?;
        arch::set_state(&self.vcpu, &before, state)
    }

    fn translate(&self, address: u64) -> Option<Gpa> {
        let found = self.vcpu.translate_gva(address).ok()?;
        let at = Gpa(found.physical_address);
        (found.valid != 0 && at.0 < self.memory.size()).then_some(at)
    }

    fn poke(&mut self, layout: &Layout, at: Gpa, bytes: &[u8]) -> Result<(), Error> {
        self.memory.poke(layout, at, bytes).map_err(|source| Error { what: "writing guest memory", source })
    }

    fn set_traps(&mut self, traps: &Traps) -> Result<bool, Error> {
        let Some(registers) = breakpoints(traps) else { return Ok(false) };
        self.debugging.traps = traps.clone();
        self.debugging.registers = registers;
        self.apply(0).map(|()| true)
    }

    fn run_to_trap(&mut self) -> Result<Halt, Error> {
        loop {
            let exit = self.run()?;
            match self.debugging.trap.take() {
                None if exit == Exit::Halted => return self.halted(),
                None => return Ok(Halt::Exit(exit)),
                Some(trap) => match self.halt(&trap) {
                    Some(halt) => return Ok(halt),
                    None => self.apply(KVM_GUESTDBG_INJECT_DB)?,
                },
            }
        }
    }

    /// To write what is read-only takes `mprotect` of guest memory as well, which every thread may make.
    fn system_calls(&self, calls: &mut Calls) {
        self.allow(calls, &arch::WHILE_DEBUGGED);
    }

    fn describe(&self) -> Result<String, Error> {
        arch::describe(&self.vcpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::debug::Watch;

    #[test]
    fn what_is_watched_is_cut_into_aligned_pieces() {
        let watch = |start, len, reads| Traps { watched: vec![Watch { start, len, reads }], ..Traps::default() };
        let found = breakpoints(&watch(0x1001, 7, false)).unwrap();
        let pieces: Vec<_> = found.iter().map(|one| (one.address, one.condition)).collect();
        assert_eq!(pieces, [(0x1001, 0b0001), (0x1002, 0b0101), (0x1004, 0b1101)]);
        assert!(found.iter().all(|one| one.halt == What::Watched(0x1001)));
        let found = breakpoints(&watch(0x1000, 8, true)).unwrap();
        assert_eq!((found.len(), found[0].condition), (1, 0b1011));
        assert_eq!(breakpoints(&watch(0x1000, 32, false)).map(|found| found.len()), Some(4));
        assert_eq!(breakpoints(&watch(0x1000, 33, false)), None);
        assert_eq!(breakpoints(&watch(u64::MAX - 1, 8, false)).map(|found| found.len()), Some(1));
        let five = Traps { executed: vec![1, 2, 3, 4, 5], ..Traps::default() };
        assert_eq!(breakpoints(&five), None);
    }

    /// SDM volume 3, figure 17-1.
    #[test]
    fn debug_registers_are_as_the_manual_says() {
        let traps = Traps {
            executed: vec![0x10_0000],
            watched: vec![Watch { start: 0x2000, len: 4, reads: false }],
            ..Traps::default()
        };
        let registers = debug_registers(&breakpoints(&traps).unwrap());
        assert_eq!(registers, [0x10_0000, 0x2000, 0, 0, 0, 0, 0, 0x00d0_060a]);
    }
}
