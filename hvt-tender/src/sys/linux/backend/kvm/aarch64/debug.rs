//! aarch64. Software breakpoints are `brk` instructions. While there are any, KVM reports every
//! `brk`, including any `brk` of the guest, which is returned to the guest.
//!
//! Breakpoint and watchpoint registers are the CPU's (Arm ARM, D2.9 and D2.10), as many as KVM
//! reports. A watchpoint covers consecutive bytes of one doubleword, or a naturally aligned power
//! of two of 16 bytes or more. Its exception precedes the instruction. The guest's debug registers
//! have no effect while a debugger uses them.

#![expect(unsafe_code, reason = "system calls of KVM, and memory that the kernel and the guest write")]

use std::ops::Range;

use hvt_abi::{Gpa, GuestRange};
use kvm_bindings::{
    KVM_EXIT_MMIO, KVM_GUESTDBG_USE_HW, KVM_GUESTDBG_USE_SW_BP, kvm_debug_exit_arch, kvm_guest_debug_arch,
};

use super::super::debug::Debugging;
use crate::Vcpu;
use crate::backend::BackendError;
use crate::backend::debug::{CpuState, Halt, Traps, Watch};
use crate::backend::kvm::{KvmMachine, arch};
use crate::exit::Exit;
use crate::memory::{GuestMemory, MappedMemory};

/// Control bits of `KVM_SET_GUEST_DEBUG` for software breakpoints.
pub(in super::super) const SOFTWARE_BREAKPOINTS: u32 = KVM_GUESTDBG_USE_SW_BP;

/// Number of breakpoints and watchpoints that the CPU has for guests.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Capacity {
    breakpoints: usize,
    watchpoints: usize,
}

impl Capacity {
    /// Capacity of this host.
    pub(in super::super) fn new(system: &kvm_ioctls::Kvm) -> Self {
        // The maximum is 16. A negative value is an error and counts as 0.
        let count = |said: i32| usize::try_from(said).unwrap_or(0).min(16);
        Self {
            breakpoints: count(system.get_guest_debug_hw_bps()),
            watchpoints: count(system.get_guest_debug_hw_wps()),
        }
    }
}

/// Contents of the breakpoint and watchpoint registers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Breakpoints {
    /// DBGBVR\<n\>_EL1.
    executed: Vec<u64>,
    watched: Vec<Watchpoint>,
}

/// Contents of one pair of watchpoint registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watchpoint {
    /// DBGWVR\<n\>_EL1.
    value: u64,
    /// DBGWCR\<n\>_EL1.
    control: u64,
}

/// DBGBCR\<n\>_EL1.E and DBGWCR\<n\>_EL1.E: enabled.
const E: u64 = 1 << 0;
/// PMC and PAC, with HMC and SSC 0: at EL0 and EL1.
const EL0_AND_EL1: u64 = 0b11 << 1;
/// DBGBCR\<n\>_EL1.BAS: a whole instruction.
const INSTRUCTION: u64 = 0xf << 5;
/// DBGWCR\<n\>_EL1.LSC: loads, stores.
const LOADS: u64 = 0b01 << 3;
const STORES: u64 = 0b10 << 3;
/// First bit of DBGWCR\<n\>_EL1.BAS, which has a bit for each byte of the doubleword.
const BAS: u32 = 5;
/// First bit of DBGWCR\<n\>_EL1.MASK, the number of address bits that are not compared.
const MASK: u32 = 24;

impl Breakpoints {
    /// Computes the registers for these traps. Returns `None` if the registers do not suffice, or
    /// if an address is not aligned for an instruction.
    pub(in super::super) fn new(traps: &Traps, capacity: Capacity) -> Option<Self> {
        let executed = traps.executed.clone();
        if executed.len() > capacity.breakpoints || executed.iter().any(|address| !address.is_multiple_of(4)) {
            return None;
        }
        let mut watched = Vec::new();
        for watch in &traps.watched {
            let mut address = watch.start;
            while address < watch.end() {
                let (watchpoint, len) = watchpoint(address..watch.end(), watch.reads);
                watched.push(watchpoint);
                if watched.len() > capacity.watchpoints {
                    return None;
                }
                address = address.saturating_add(len);
            }
        }
        Some(Self { executed, watched })
    }

    /// Control bits of `KVM_SET_GUEST_DEBUG` for these registers.
    pub(in super::super) fn control(&self) -> u32 {
        if self.executed.is_empty() && self.watched.is_empty() { 0 } else { KVM_GUESTDBG_USE_HW }
    }

    /// Registers in KVM's format.
    pub(in super::super) fn registers(&self) -> kvm_guest_debug_arch {
        let mut registers = kvm_guest_debug_arch::default();
        for (index, address) in self.executed.iter().enumerate() {
            registers.dbg_bvr[index] = *address;
            registers.dbg_bcr[index] = E | EL0_AND_EL1 | INSTRUCTION;
        }
        for (index, watchpoint) in self.watched.iter().enumerate() {
            registers.dbg_wvr[index] = watchpoint.value;
            registers.dbg_wcr[index] = watchpoint.control;
        }
        registers
    }
}

/// Returns a watchpoint for the first bytes of `range`, as many as one watchpoint can cover, and
/// their number.
fn watchpoint(range: Range<u64>, reads: bool) -> (Watchpoint, u64) {
    const DOUBLEWORD: u64 = 8;
    let kind = E | EL0_AND_EL1 | STORES | if reads { LOADS } else { 0 };
    let left = range.end - range.start;
    // Largest power of two that both the start and the remaining length allow.
    let block = 1 << left.ilog2().min(range.start.trailing_zeros());
    if block > DOUBLEWORD {
        let control = kind | 0xff << BAS | u64::from(block.ilog2()) << MASK;
        return (Watchpoint { value: range.start, control }, block);
    }
    let skipped = range.start % DOUBLEWORD;
    let len = left.min(DOUBLEWORD - skipped);
    let bytes = ((1 << len) - 1) << skipped;
    (Watchpoint { value: range.start - skipped, control: kind | bytes << BAS }, len)
}

/// Returns the watchpoint for an access that first touched this address. An access may start before
/// the watched bytes (Arm ARM, D2.10.6); the nearest watchpoint is then the one.
fn nearest(watches: &[Watch], address: u64) -> Option<&Watch> {
    watches.iter().min_by_key(|watch| match address {
        _ if address < watch.start => watch.start - address,
        _ if address < watch.end() => 0,
        _ => address - watch.end() + 1,
    })
}

/// Makes the CPU execute the bytes written to this memory, because instruction and data caches are
/// not coherent.
///
/// For pages that are read-only for the guest, KVM does the same when it maps them again after the
/// change of their protection. This function covers all memory.
pub(in super::super) fn synchronise(memory: &MappedMemory, at: Gpa, len: usize) {
    let mut left = GuestRange::new(at, len as u64).filter(|range| !range.is_empty());
    while let Some(chunk) = left.and_then(|range| memory.chunk(range)) {
        // SAFETY: the chunk is mapped.
        unsafe { clean_and_invalidate(chunk.as_ptr(), chunk.len()) };
        left = left.and_then(|range| GuestRange::between(range.start().checked_add(chunk.len() as u64)?, range.end()));
        left = left.filter(|range| !range.is_empty());
    }
}

/// Cleans the data cache and invalidates the instruction cache for these bytes to the point of
/// unification (Arm ARM, B2.4.4). Linux permits this to every process (SCTLR_EL1.UCI and UCT), or
/// emulates it.
///
/// # Safety
/// The bytes must be mapped.
unsafe fn clean_and_invalidate(start: *const u8, len: usize) {
    let types: u64;
    // SAFETY: reading CTR_EL0 has no effect.
    unsafe { std::arch::asm!("mrs {}, ctr_el0", out(reg) types, options(nomem, nostack, preserves_flags)) };
    // DminLine and IminLine: the logarithms of the number of words in the smallest lines.
    let (data, instructions) = (4_usize << (types >> 16 & 0xf), 4_usize << (types & 0xf));
    let (start, end) = (start.addr(), start.addr() + len);
    // SAFETY: these instructions change neither memory nor registers. A line that starts before the
    // bytes lies in the same page, which the caller guarantees to be mapped.
    unsafe {
        for line in (start & !(data - 1)..end).step_by(data) {
            std::arch::asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags));
        }
        std::arch::asm!("dsb ish", options(nostack, preserves_flags));
        for line in (start & !(instructions - 1)..end).step_by(instructions) {
            std::arch::asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags));
        }
        std::arch::asm!("dsb ish", "isb", options(nostack, preserves_flags));
    }
}

/// Classes of debug exceptions (Arm ARM, D17.2.37, EC), taken from a lower exception level, the
/// guest's.
mod class {
    pub(in super::super) const BREAKPOINT: u32 = 0x30;
    pub(in super::super) const STEP: u32 = 0x32;
    pub(in super::super) const WATCHPOINT: u32 = 0x34;
}

impl KvmMachine {
    /// Finishes a hypercall before PC is changed: KVM otherwise advances PC past the hypercall's
    /// store when the guest runs again, from whatever value PC then has.
    pub(in super::super) fn before_change(&mut self, before: &CpuState, after: &CpuState) -> Result<(), BackendError> {
        if before.registers.pc == after.registers.pc || self.vcpu.get_kvm_run().exit_reason != KVM_EXIT_MMIO {
            return Ok(());
        }
        // This run ends before the guest's next instruction.
        self.stop.pause();
        let exit = self.run();
        self.stop.unpause();
        match exit? {
            Exit::Interrupted => Ok(()),
            other => Err(BackendError {
                what: "finishing a hypercall",
                source: std::io::Error::other(format!("the guest has run: {other:?}")),
            }),
        }
    }

    /// Converts the end of a run without a debug exit.
    pub(in super::super) fn exited(&mut self, exit: Exit) -> Result<Halt, BackendError> {
        Ok(Halt::Exit(exit))
    }

    /// Converts a debug exit. Returns `None` if the exception belongs to the guest, which has now
    /// taken it.
    pub(in super::super) fn trapped(&mut self, trap: &kvm_debug_exit_arch) -> Result<Option<Halt>, BackendError> {
        let Debugging { traps, .. } = &self.debugging;
        let step = traps.step.then_some(Halt::Step);
        match trap.hsr >> 26 {
            class::STEP => Ok(step),
            class::BREAKPOINT => Ok(Some(Halt::Executed)),
            class::WATCHPOINT => Ok(nearest(&traps.watched, trap.far).map(|watch| Halt::Watched(watch.start))),
            // A breakpoint instruction.
            _ if self.is_planted(self.registers()?.pc) => Ok(Some(Halt::SoftwareBreakpoint)),
            // Entering the guest's vector counts as the step.
            _ => arch::take(&self.vcpu, u64::from(trap.hsr_high) << 32 | u64::from(trap.hsr)).map(|()| step),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: Capacity = Capacity { breakpoints: 2, watchpoints: 4 };

    fn watch(start: u64, len: u64, reads: bool) -> Watch {
        Watch { start, len, reads }
    }

    /// Address, selected bytes and number of masked bits of each watchpoint.
    fn pieces(start: u64, len: u64) -> Option<Vec<(u64, u64, u64)>> {
        let traps = Traps { watched: vec![watch(start, len, false)], ..Traps::default() };
        let found = Breakpoints::new(&traps, FOUR)?;
        assert!(found.watched.iter().all(|one| one.control & 0x1f == 0b1_0111));
        Some(found.watched.iter().map(|one| (one.value, one.control >> 5 & 0xff, one.control >> 24)).collect())
    }

    #[test]
    fn what_is_watched_is_cut_into_doublewords_and_powers_of_two() {
        assert_eq!(pieces(0x1000, 8), Some(vec![(0x1000, 0xff, 0)]));
        assert_eq!(pieces(0x1001, 7), Some(vec![(0x1000, 0xfe, 0)]));
        assert_eq!(pieces(0x1006, 1), Some(vec![(0x1000, 0x40, 0)]));
        assert_eq!(pieces(0x1006, 4), Some(vec![(0x1000, 0xc0, 0), (0x1008, 0x03, 0)]));
        assert_eq!(pieces(0x1000, 4096), Some(vec![(0x1000, 0xff, 12)]));
        assert_eq!(pieces(0x1008, 24), Some(vec![(0x1008, 0xff, 0), (0x1010, 0xff, 4)]));
        assert_eq!(pieces(0x1001, 0x100), None, "too many");
        assert_eq!(pieces(u64::MAX - 1, 8), Some(vec![(u64::MAX - 7, 0x40, 0)]));
    }

    #[test]
    fn there_are_as_many_as_kvm_says() {
        let executed = |addresses: &[u64]| {
            let traps = Traps { executed: addresses.to_vec(), ..Traps::default() };
            Breakpoints::new(&traps, FOUR).map(|found| found.executed)
        };
        assert_eq!(executed(&[0x1000, 0x2004]), Some(vec![0x1000, 0x2004]));
        assert_eq!(executed(&[0x1000, 0x1004, 0x1008]), None);
        assert_eq!(executed(&[0x1002]), None, "no instruction begins there");
    }

    /// Arm ARM, D17.3: DBGBCR, DBGWCR.
    #[test]
    fn registers_are_as_the_manual_says() {
        let traps = Traps { executed: vec![0x10_0000], watched: vec![watch(0x2004, 4, true)], ..Traps::default() };
        let found = Breakpoints::new(&traps, FOUR).unwrap();
        let registers = found.registers();
        assert_eq!((registers.dbg_bvr[0], registers.dbg_bcr[..2].to_vec()), (0x10_0000, vec![0x1e7, 0]));
        assert_eq!((registers.dbg_wvr[0], registers.dbg_wcr[..2].to_vec()), (0x2000, vec![0x1e1f, 0]));
        assert_eq!((found.control(), Breakpoints::default().control()), (KVM_GUESTDBG_USE_HW, 0));
    }

    #[test]
    fn an_access_is_about_the_nearest() {
        let watches = [watch(0x1000, 4, false), watch(0x1010, 8, false)];
        let found = |address| nearest(&watches, address).map(|watch| watch.start);
        assert_eq!(
            [0xff8, 0x1003, 0x1006, 0x100c, 0x1017, 0x1020].map(|at| found(at).unwrap()),
            [0x1000, 0x1000, 0x1000, 0x1010, 0x1010, 0x1010]
        );
        assert_eq!(nearest(&[], 0), None);
    }
}
