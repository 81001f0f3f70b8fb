//! The seam between the hypervisor and the architecture it runs on.
//!
//! Virtual machines, the life cycle of virtual CPUs, second-level page tables and the scheme are the same everywhere. An
//! implementation of [`Arch`] adds a machine's virtualization extension: it is chosen once, when the
//! [`Hypervisor`](crate::Hypervisor) is made.

use alloc::boxed::Box;

use hvt_abi::kernel::{Exit, Io, Technology};

use crate::{
    host::{Host, Hpa, OutOfMemory},
    memory::ReadMemory,
    paging::AddressSpace,
};

/// The virtualization extension of a machine, and what all virtual machines share on it.
///
/// Functions that take a CPU run on that CPU, and those that take a virtual CPU and a CPU get a pair that this value has
/// made.
pub trait Arch<H: Host>: Sized {
    /// The registers that every exit may change.
    type Registers: Copy;
    /// All registers that can be read and set.
    type State: Copy;
    /// The extension is not to be enabled on a CPU.
    type EnableError: From<OutOfMemory>;
    /// A virtual CPU cannot run on a CPU.
    type BindError;
    /// The extension, enabled on one CPU.
    type Cpu;
    /// A virtual CPU.
    type Vcpu;

    /// Properties of the extension.
    fn capabilities(&self) -> Capabilities;

    /// Creates empty second-level page tables.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    fn new_address_space(&self, host: &H) -> Result<Box<dyn AddressSpace>, OutOfMemory>;

    /// Creates a virtual CPU in `state` that sees guest-physical memory through the tables at `root`.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    fn new_vcpu(&self, host: &H, root: Hpa, state: &Self::State) -> Result<Self::Vcpu, OutOfMemory>;

    /// Enables the extension on this CPU.
    ///
    /// # Errors
    /// [`EnableError`](Self::EnableError); nothing was changed.
    ///
    /// # Safety
    /// As for [`Hypervisor::enable`](crate::Hypervisor::enable).
    unsafe fn enable(&self, host: &H) -> Result<Self::Cpu, Self::EnableError>;

    /// Disables the extension and restores what was there before.
    ///
    /// # Safety
    /// The CPU is this one.
    unsafe fn disable(&self, cpu: Self::Cpu);

    /// Leaves frames that another CPU may still use to it for ever.
    fn abandon(&self, cpu: Self::Cpu);

    /// Separates the guests of two virtual machines that run on the CPU one after the other.
    ///
    /// # Safety
    /// The CPU is this one.
    unsafe fn change_vm(&self, cpu: &mut Self::Cpu);

    /// Prepares the CPU for many entries in a row. Undone by [`unbind`](Self::unbind).
    ///
    /// # Errors
    /// [`BindError`](Self::BindError).
    ///
    /// # Safety
    /// The CPU is this one. With [`FpuOwner::Guest`], as for
    /// [`Vcpu::bind_keeping_fpu`](crate::Vcpu::bind_keeping_fpu).
    unsafe fn bind(&self, vcpu: &mut Self::Vcpu, cpu: &mut Self::Cpu, binding: &Binding)
    -> Result<(), Self::BindError>;

    /// Gives the CPU back to the kernel.
    ///
    /// # Safety
    /// The virtual CPU is bound to this CPU.
    unsafe fn unbind(&self, vcpu: &mut Self::Vcpu, cpu: &mut Self::Cpu, binding: &Binding);

    /// Enters the guest once, unless [`Host::wants_cpu`]. The second value tells whether interrupts are enabled; if so,
    /// those that made the guest exit have been taken.
    ///
    /// # Safety
    /// The virtual CPU is bound to this CPU, which has run no other one since; `memory` is what the guest's second-level
    /// tables map.
    unsafe fn step(
        &self,
        vcpu: &mut Self::Vcpu,
        cpu: &mut Self::Cpu,
        binding: &Binding,
        host: &H,
        memory: &dyn ReadMemory,
    ) -> (Result<Io, Step>, bool);

    /// The guest's [`Registers`](Self::Registers).
    fn registers(vcpu: &Self::Vcpu) -> Self::Registers;

    /// Sets them. They are checked when the guest is next entered, and an exception that it was about to get is
    /// forgotten.
    fn set_registers(vcpu: &mut Self::Vcpu, registers: &Self::Registers);

    /// Sets the whole state, as [`set_registers`](Self::set_registers) does.
    fn set_state(vcpu: &mut Self::Vcpu, state: &Self::State);

    /// The whole state.
    ///
    /// # Safety
    /// The virtual CPU is bound to this CPU.
    unsafe fn state(vcpu: &Self::Vcpu) -> Self::State;

    /// Completes an access to a port or device register that reads: `value` is what the guest gets, `size` bytes of it.
    fn complete_read(registers: &mut Self::Registers, size: u8, value: u32);
}

/// Properties of a machine's virtualization extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Its name.
    pub technology: Technology,
    /// Bits of a guest-physical address.
    pub address_bits: u32,
    /// Second-level page tables can have pages that can be executed and not read.
    pub execute_only: bool,
}

/// Circumstances under which a virtual CPU is bound to a CPU.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// [`Host::cpu_index`].
    pub cpu: u32,
    /// Number of times that translations of the guest's memory have become stale.
    pub epoch: u64,
    /// The owner of the floating-point registers.
    pub fpu: FpuOwner,
}

/// Owner of the floating-point state on the CPU while the guest is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FpuOwner {
    /// The kernel's: it has to be swapped at every entry and exit.
    Kernel,
    /// The guest's.
    Guest,
}

/// The end of an entry that was no access to a port.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It is dealt with: enter the guest again.
    Again,
    /// Interrupts have to be taken before the guest is entered again: one is there, an NMI was and the kernel has handled
    /// it, or an exception was raised again ([`raised_again`](Self::raised_again)).
    Interrupted,
    /// The monitor has to know.
    Exit(Exit),
}

impl Step {
    /// An exception of the guest's has left it and is raised again at the next entry. Its delivery may make the next one
    /// leave before any instruction, and so on for ever (CVE-2015-8104: a data breakpoint on the memory that its delivery
    /// writes), in which no interrupt would be taken.
    #[must_use]
    pub const fn raised_again() -> Self {
        Self::Interrupted
    }
}
