//! A guest of a few instructions, for questions that a unikernel cannot ask.

use alloc::{string::String, vec, vec::Vec};

use hvt_abi::{
    Gpa, GuestRange,
    kernel::Exit,
    x86_64::{EntryState, GDT, GDT_BASE, PD_BASE, PDPT_BASE, PML4_BASE, PageEntry, Registers},
};
use kernel_hvt_glue::{Cpu, Hypervisor, Permissions, Vcpu, Vm};
use zerocopy::IntoBytes;

use crate::host::{self, Kernel};

/// Guest memory of a probe in bytes.
pub(crate) const MEMORY: u64 = 0x20_0000;
/// Where a probe's code lies, guest-physical and linear.
pub(crate) const CODE: Gpa = Gpa(0x10_0000);
/// Where a probe finds data and leaves results.
pub(crate) const DATA: Gpa = Gpa(0x18_0000);
/// RFLAGS.IF. A guest gets no interrupt all the same: each of them is the host's.
pub(crate) const INTERRUPT_FLAG: u64 = 1 << 9;
/// A probe that has not come to an exit by then never will: 2 s.
const TICKS: u64 = 2 * crate::interrupts::TIMER_HZ as u64;

/// A virtual machine with one virtual CPU. Its page tables map the first 4 GiB of linear addresses one to one, so that
/// what stops it is the second level alone.
pub(crate) struct Machine {
    pub(crate) vm: Vm<Kernel>,
    pub(crate) vcpu: Vcpu<Kernel>,
}

impl Machine {
    /// One that will run `code`, with [`MEMORY`] bytes in which it may do everything.
    pub(crate) fn new(hypervisor: &Hypervisor<Kernel>, code: &[u8]) -> Result<Self, String> {
        Self::with_entry(hypervisor, code, &EntryState::new(MEMORY, CODE))
    }

    /// The same, with another state at entry.
    pub(crate) fn with_entry(hypervisor: &Hypervisor<Kernel>, code: &[u8], entry: &EntryState) -> Result<Self, String> {
        let text = |error: &dyn core::fmt::Display| alloc::format!("{error}");
        let mut vm = Vm::new(hypervisor).map_err(|error| text(&error))?;
        let memory = GuestRange::new(Gpa(0), MEMORY).ok_or("memory wraps around")?;
        vm.allocate(memory, Permissions::all()).map_err(|error| text(&error))?;
        for (at, bytes) in page_tables() {
            vm.write(at, bytes.as_bytes()).map_err(|error| text(&error))?;
        }
        vm.write(GDT_BASE, GDT.as_bytes()).map_err(|error| text(&error))?;
        vm.write(CODE, code).map_err(|error| text(&error))?;
        let vcpu = vm.create_vcpu(entry).map_err(|error| text(&error))?;
        Ok(Self { vm, vcpu })
    }

    /// Runs until something happens, but not for ever.
    pub(crate) fn run(&mut self, cpu: &mut Cpu<Kernel>) -> Result<Exit, String> {
        host::set_time_slice(TICKS);
        self.run_slice(cpu)
    }

    /// Runs until something happens or the time slice is over.
    pub(crate) fn run_slice(&mut self, cpu: &mut Cpu<Kernel>) -> Result<Exit, String> {
        self.vcpu.run(cpu, &self.vm).map_err(|error| alloc::format!("{error}"))
    }

    /// Changes registers.
    pub(crate) fn set(&mut self, change: impl FnOnce(&mut Registers)) {
        let mut registers = self.vcpu.registers();
        change(&mut registers);
        self.vcpu.set_registers(&registers);
    }

    /// Words of guest memory.
    pub(crate) fn words(&self, at: Gpa, count: usize) -> Result<Vec<u64>, String> {
        let mut words = vec![0; count];
        self.vm.read(at, words.as_mut_bytes()).map_err(|error| alloc::format!("{error}"))?;
        Ok(words)
    }

    /// Puts words into guest memory.
    pub(crate) fn put(&self, at: Gpa, words: &[u64]) -> Result<(), String> {
        self.vm.write(at, words.as_bytes()).map_err(|error| alloc::format!("{error}"))
    }
}

/// Page tables with 2 MiB pages for the first 4 GiB, where a tender puts them.
fn page_tables() -> [(Gpa, Vec<u64>); 3] {
    let table = (PageEntry::PRESENT | PageEntry::WRITABLE | PageEntry::ACCESSED).bits();
    let page = table | (PageEntry::DIRTY | PageEntry::PAGE_SIZE).bits();
    [
        (PML4_BASE, vec![PDPT_BASE.0 | table]),
        (PDPT_BASE, (0..4).map(|index| (PD_BASE.0 + index * 0x1000) | table).collect()),
        (PD_BASE, (0..4 * 512).map(|index| (index << 21) | page).collect()),
    ]
}
