//! Virtual CPU: the part of the CPU state that an unprivileged process lacks.

#![expect(unsafe_code, reason = "system calls, and memory that the process of the guest writes")]

use hvt_abi::x86_64::{Cr0, Cr4, Efer, EntryState, TableRegister};

use super::features::Features;
use crate::backend::CycleCounter;
use crate::backend::debug::Segments;

/// RFLAGS.IF (SDM 3.4.3).
pub(super) const RFLAGS_IF: u64 = 1 << 9;
/// RFLAGS.TF.
pub(super) const RFLAGS_TF: u64 = 1 << 8;
/// RFLAGS.NT.
pub(super) const RFLAGS_NT: u64 = 1 << 14;
/// RFLAGS.RF.
pub(super) const RFLAGS_RF: u64 = 1 << 16;
/// RFLAGS.AC.
pub(super) const RFLAGS_AC: u64 = 1 << 18;
/// Flags that POPF and IRET can change at CPL 0 and that are relevant here: arithmetic flags, TF,
/// DF, AC, ID.
pub(super) const RFLAGS_GUEST: u64 = 0x0024_0dd5;

/// State that privileged instructions read and write. The child process holds the general registers.
#[derive(Clone, Debug)]
pub(super) struct Cpu {
    pub(super) cr0: Cr0,
    /// Address of the last page fault.
    pub(super) cr2: u64,
    pub(super) cr3: u64,
    /// Value that the guest wrote; the guest reads [`cr4`](Cpu::cr4).
    pub(super) cr4_written: Cr4,
    pub(super) efer: Efer,
    pub(super) gdtr: TableRegister,
    pub(super) idtr: TableRegister,
    /// Base address and limit in bytes of the task-state segment.
    pub(super) task: (u64, u32),
    pub(super) cs: u16,
    pub(super) ss: u16,
    /// DS, ES, FS and GS, if the guest has loaded them with a selector other than null.
    pub(super) data: [u16; 4],
    /// RFLAGS.IF. Interrupts never arrive, but the flag is pushed with every exception.
    pub(super) interrupts: bool,
    pub(super) fs_base: u64,
    pub(super) gs_base: u64,
    pub(super) kernel_gs_base: u64,
    pub(super) pat: u64,
    /// Counter that the guest reads instead of the TSC, if reading the TSC traps.
    pub(super) cycles: Option<CycleCounter>,
}

/// IA32_PAT after reset (SDM 11.12.4).
const PAT_RESET: u64 = hvt_abi::x86_64::msr::PAT_RESET;

impl Cpu {
    /// Creates the CPU at the guest's entry point.
    pub(super) fn new(entry: &EntryState) -> Self {
        Self {
            cr0: entry.cr0,
            cr2: 0,
            cr3: entry.cr3.0,
            cr4_written: entry.cr4,
            efer: entry.efer,
            gdtr: entry.gdtr,
            idtr: entry.idtr,
            task: (entry.task.base, entry.task.limit),
            cs: entry.code.selector,
            ss: entry.data.selector,
            data: [entry.data.selector; 4],
            interrupts: entry.rflags & RFLAGS_IF != 0,
            fs_base: 0,
            gs_base: 0,
            kernel_gs_base: 0,
            pat: PAT_RESET,
            cycles: None,
        }
    }

    /// CR4, with the bits set that are visible in CPUID.
    pub(super) fn cr4(&self) -> Cr4 {
        self.cr4_written | Cr4::from_bits_retain(Features::of_this_cpu().on)
    }

    /// Time-stamp counter.
    pub(super) fn tsc(&self) -> u64 {
        match &self.cycles {
            Some(counter) => counter.read(),
            // SAFETY: every x86_64 CPU has RDTSC; the guest's RDTSC reads the same counter.
            None => unsafe { std::arch::x86_64::_rdtsc() },
        }
    }

    /// Segment registers.
    pub(super) fn segments(&self) -> Segments {
        let [ds, es, fs, gs] = self.data;
        Segments { cs: self.cs, ss: self.ss, ds, es, fs, gs, fs_base: self.fs_base, gs_base: self.gs_base }
    }

    /// RFLAGS as the guest sees it, given the flags of the process.
    pub(super) fn rflags(&self, process: u64) -> u64 {
        (process & !RFLAGS_IF) | if self.interrupts { RFLAGS_IF } else { 0 }
    }
}
