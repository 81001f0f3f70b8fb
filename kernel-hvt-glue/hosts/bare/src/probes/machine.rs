//! Guest of a few instructions, for checks that a unikernel cannot make.

use alloc::{string::String, vec, vec::Vec};

use hvt_abi::{
    Gpa, GuestRange,
    kernel::Exit,
    x86_64::{EntryState, GDT, GDT_BASE, PD_BASE, PDPT_BASE, PML4_BASE, PageEntry, Registers},
};
use kernel_hvt_glue::{Cpu, Hypervisor, Permissions, Vcpu, Vm};
use zerocopy::IntoBytes;

use crate::host::{self, Kernel};

/// Guest memory of a probe, in bytes.
pub(crate) const MEMORY: u64 = 0x20_0000;
/// Address of a probe's code, guest-physical and linear.
pub(crate) const CODE: Gpa = Gpa(0x10_0000);
/// Address of a probe's data and results.
pub(crate) const DATA: Gpa = Gpa(0x18_0000);
/// RFLAGS.IF. A guest never receives an interrupt: every interrupt goes to the host.
pub(crate) const INTERRUPT_FLAG: u64 = 1 << 9;
/// Timer ticks after which a probe without an exit times out: 2 s.
const TICKS: u64 = 2 * crate::interrupts::TIMER_HZ as u64;

/// A virtual machine with one virtual CPU. Its page tables map the first 4 GiB of linear addresses
/// one to one, so that only second-level translation restricts the guest.
pub(crate) struct Machine {
    pub(crate) vm: Vm<Kernel>,
    pub(crate) vcpu: Vcpu<Kernel>,
}

impl Machine {
    /// Creates a VM that will run `code`, with all permissions on its [`MEMORY`] bytes.
    pub(crate) fn new(hypervisor: &Hypervisor<Kernel>, code: &[u8]) -> Result<Self, String> {
        Self::with_entry(hypervisor, code, &EntryState::new(MEMORY, CODE))
    }

    /// Creates a VM like [`Machine::new`], with another state at entry.
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

    /// Runs until the next exit, or until the time limit.
    pub(crate) fn run(&mut self, cpu: &mut Cpu<Kernel>) -> Result<Exit, String> {
        host::set_time_slice(TICKS);
        self.run_slice(cpu)
    }

    /// Runs until the next exit, or until the end of the time slice.
    pub(crate) fn run_slice(&mut self, cpu: &mut Cpu<Kernel>) -> Result<Exit, String> {
        self.vcpu.run(cpu, &self.vm).map_err(|error| alloc::format!("{error}"))
    }

    /// Changes registers of the virtual CPU.
    pub(crate) fn set(&mut self, change: impl FnOnce(&mut Registers)) {
        let mut registers = self.vcpu.registers();
        change(&mut registers);
        self.vcpu.set_registers(&registers);
    }

    /// Reads words of guest memory.
    pub(crate) fn words(&self, at: Gpa, count: usize) -> Result<Vec<u64>, String> {
        let mut words = vec![0; count];
        self.vm.read(at, words.as_mut_bytes()).map_err(|error| alloc::format!("{error}"))?;
        Ok(words)
    }

    /// Writes words to guest memory.
    pub(crate) fn put(&self, at: Gpa, words: &[u64]) -> Result<(), String> {
        self.vm.write(at, words.as_bytes()).map_err(|error| alloc::format!("{error}"))
    }
}

/// Returns page tables with 2 MiB pages for the first 4 GiB, at the addresses that a tender uses.
fn page_tables() -> [(Gpa, Vec<u64>); 3] {
    let table = (PageEntry::PRESENT | PageEntry::WRITABLE | PageEntry::ACCESSED).bits();
    let page = table | (PageEntry::DIRTY | PageEntry::PAGE_SIZE).bits();
    [
        (PML4_BASE, vec![PDPT_BASE.0 | table]),
        (PDPT_BASE, (0..4).map(|index| (PD_BASE.0 + index * 0x1000) | table).collect()),
        (PD_BASE, (0..4 * 512).map(|index| (index << 21) | page).collect()),
    ]
}
