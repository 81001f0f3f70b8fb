//! x86_64. Software breakpoints are `hlt` instructions, which end a run as they do without a
//! debugger.
//!
//! Breakpoint and watchpoint registers are the CPU's (SDM volume 3, 17.2): four, each for one
//! instruction, or for naturally aligned data of 1, 2, 4 or 8 bytes. The guest's debug registers
//! have no effect while a debugger uses them.

use hvt_abi::Gpa;
use kvm_bindings::{KVM_GUESTDBG_INJECT_DB, KVM_GUESTDBG_USE_HW_BP, kvm_debug_exit_arch, kvm_guest_debug_arch};

use super::super::debug::Debugging;
use crate::backend::BackendError;
use crate::backend::debug::{CpuState, Halt, Traps};
use crate::backend::kvm::{KvmMachine, kvm_error};
use crate::exit::Exit;
use crate::memory::MappedMemory;

/// Control bits of `KVM_SET_GUEST_DEBUG` for software breakpoints: none.
pub(in super::super) const SOFTWARE_BREAKPOINTS: u32 = 0;

/// Number of breakpoints that the CPU has: always four.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Capacity;

impl Capacity {
    /// Capacity of this host.
    pub(in super::super) fn new(_system: &kvm_ioctls::Kvm) -> Self {
        Self
    }
}

/// Contents of DR0 to DR3.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Breakpoints(Vec<Breakpoint>);

/// Contents of one debug register.
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
    /// Access to the [`Watch`](crate::backend::debug::Watch) that starts here.
    Watched(u64),
}

/// DR6.BS: a single step.
const DR6_STEP: u64 = 1 << 14;

impl Breakpoints {
    /// Computes the debug registers for these traps. Returns `None` if four do not suffice.
    pub(in super::super) fn new(traps: &Traps, _: Capacity) -> Option<Self> {
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
        (found.len() <= 4).then_some(Self(found))
    }

    /// Control bits of `KVM_SET_GUEST_DEBUG` for these registers.
    pub(in super::super) fn control(&self) -> u32 {
        if self.0.is_empty() { 0 } else { KVM_GUESTDBG_USE_HW_BP }
    }

    /// DR0 to DR7: all enabled globally, exact, with bit 10 set as required.
    pub(in super::super) fn registers(&self) -> kvm_guest_debug_arch {
        let mut debugreg = [0; 8];
        let mut control = 1 << 9 | 1 << 10;
        for (index, breakpoint) in self.0.iter().enumerate().take(4) {
            debugreg[index] = breakpoint.address;
            control |= 1 << (2 * index + 1) | breakpoint.condition << (16 + 4 * index);
        }
        debugreg[7] = control;
        kvm_guest_debug_arch { debugreg }
    }
}

/// Does nothing: the CPU checks for modified code, and the guest is entered in between.
pub(in super::super) fn synchronise(_memory: &MappedMemory, _at: Gpa, _len: usize) {}

impl KvmMachine {
    /// Registers can be changed at any time.
    pub(in super::super) fn before_change(
        &mut self,
        _before: &CpuState,
        _after: &CpuState,
    ) -> Result<(), BackendError> {
        Ok(())
    }

    /// Converts the end of a run without a debug exit.
    pub(in super::super) fn exited(&mut self, exit: Exit) -> Result<Halt, BackendError> {
        if exit != Exit::Halted {
            return Ok(Halt::Exit(exit));
        }
        // The guest has executed `hlt`, and RIP is behind it.
        let mut registers = self.vcpu.get_regs().map_err(|error| kvm_error("reading the vCPU's registers", error))?;
        let at = registers.rip.wrapping_sub(1);
        if !self.is_planted(at) {
            return Ok(Halt::Exit(Exit::Halted));
        }
        registers.rip = at;
        self.vcpu.set_regs(&registers).map_err(|error| kvm_error("setting the vCPU's registers", error))?;
        Ok(Halt::SoftwareBreakpoint)
    }

    /// Converts a debug exit. Returns `None` if the exception belongs to the guest, which has now
    /// taken it.
    pub(in super::super) fn trapped(&mut self, trap: &kvm_debug_exit_arch) -> Result<Option<Halt>, BackendError> {
        let Debugging { traps, registers, .. } = &self.debugging;
        let hit = (0..).zip(&registers.0).find(|(index, _)| trap.dr6 >> index & 1 == 1);
        let halt = match hit.map(|(_, breakpoint)| breakpoint.halt) {
            Some(What::Executed) => Some(Halt::Executed),
            Some(What::Watched(start)) => Some(Halt::Watched(start)),
            None => (traps.step && trap.dr6 & DR6_STEP != 0).then_some(Halt::Step),
        };
        if halt.is_none() {
            self.apply(KVM_GUESTDBG_INJECT_DB)?;
        }
        Ok(halt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::debug::Watch;

    fn breakpoints(traps: &Traps) -> Option<Vec<Breakpoint>> {
        Breakpoints::new(traps, Capacity).map(|found| found.0)
    }

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
        let registers = Breakpoints::new(&traps, Capacity).unwrap().registers();
        assert_eq!(registers.debugreg, [0x10_0000, 0x2000, 0, 0, 0, 0, 0, 0x00d0_060a]);
    }
}
