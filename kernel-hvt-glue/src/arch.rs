//! Interface between the hypervisor and an architecture.
//!
//! Virtual machines, the life cycle of virtual CPUs, second-level page tables and the scheme are
//! the same on every architecture. An implementation of [`Arch`] adds the virtualization extension
//! of a machine. [`Hypervisor::new`](crate::Hypervisor::new) selects the implementation once.

#![expect(unsafe_code, reason = "memory by physical address, which the guest and the CPU access")]

use alloc::boxed::Box;

use hvt_abi::kernel::{Exit, Io, Technology};

use crate::{
    host::{Host, Hpa, OutOfMemory},
    memory::ReadMemory,
    paging::AddressSpace,
};

/// Virtualization extension of a machine, with the state that all its virtual machines share.
///
/// A function with a CPU parameter must be called on that CPU. A virtual CPU and a CPU passed
/// together must have been created by the same value of this type.
pub trait Arch<H: Host>: Sized {
    /// General registers, which every exit may change.
    type Registers: Copy;
    /// All registers that can be read and set.
    type State: Copy;
    /// Error of [`enable`](Self::enable): the extension cannot be enabled on a CPU.
    type EnableError: From<OutOfMemory>;
    /// Error of [`bind`](Self::bind): a virtual CPU cannot run on a CPU.
    type BindError;
    /// State of the extension on one CPU.
    type Cpu;
    /// State of a virtual CPU.
    type Vcpu;

    /// Returns the properties of the extension.
    fn capabilities(&self) -> Capabilities;

    /// Creates empty second-level page tables.
    ///
    /// # Errors
    /// Returns [`OutOfMemory`] if the kernel has no frame for the root table.
    fn new_address_space(&self, host: &H) -> Result<Box<dyn AddressSpace>, OutOfMemory>;

    /// Creates a virtual CPU in `state` that uses the second-level page tables at `root`.
    ///
    /// # Errors
    /// Returns [`OutOfMemory`] if the kernel has no frames for the control structure.
    fn new_vcpu(&self, host: &H, root: Hpa, state: &Self::State) -> Result<Self::Vcpu, OutOfMemory>;

    /// Enables the extension on this CPU.
    ///
    /// # Errors
    /// Returns [`EnableError`](Self::EnableError) if the CPU rejects the extension. Nothing has
    /// changed then.
    ///
    /// # Safety
    /// As for [`Hypervisor::enable`](crate::Hypervisor::enable).
    unsafe fn enable(&self, host: &H) -> Result<Self::Cpu, Self::EnableError>;

    /// Disables the extension and restores the previous state of the CPU.
    ///
    /// # Safety
    /// `cpu` must be the current CPU.
    unsafe fn disable(&self, cpu: Self::Cpu);

    /// Leaks the frames of a CPU that is not the current one, because that CPU may still use them.
    fn abandon(&self, cpu: Self::Cpu);

    /// Separates the guests of two virtual machines that run on the CPU one after the other.
    ///
    /// # Safety
    /// `cpu` must be the current CPU.
    unsafe fn change_vm(&self, cpu: &mut Self::Cpu);

    /// Prepares the CPU for many entries in a row. [`unbind`](Self::unbind) reverts the
    /// preparation.
    ///
    /// # Errors
    /// Returns [`BindError`](Self::BindError) if the virtual CPU cannot run on this CPU.
    ///
    /// # Safety
    /// `cpu` must be the current CPU. With [`FpuOwner::Guest`], the requirements of
    /// [`Vcpu::bind_keeping_fpu`](crate::Vcpu::bind_keeping_fpu) apply.
    unsafe fn bind(&self, vcpu: &mut Self::Vcpu, cpu: &mut Self::Cpu, binding: &Binding)
    -> Result<(), Self::BindError>;

    /// Returns the CPU to the kernel.
    ///
    /// # Safety
    /// The virtual CPU must be bound to the current CPU.
    unsafe fn unbind(&self, vcpu: &mut Self::Vcpu, cpu: &mut Self::Cpu, binding: &Binding);

    /// Enters the guest once, unless [`Host::wants_cpu`] returns `true`. The second value is `true`
    /// if interrupts are enabled. In that case the interrupt that caused the exit has been taken.
    ///
    /// # Safety
    /// The virtual CPU must be bound to the current CPU, and no other virtual CPU may have run
    /// there since. `memory` must be the memory that the guest's second-level tables map.
    unsafe fn step(
        &self,
        vcpu: &mut Self::Vcpu,
        cpu: &mut Self::Cpu,
        binding: &Binding,
        host: &H,
        memory: &dyn ReadMemory,
    ) -> (Result<Io, ExitResult>, bool);

    /// Returns the guest's [`Registers`](Self::Registers).
    fn registers(vcpu: &Self::Vcpu) -> Self::Registers;

    /// Sets the guest's general registers. The next entry checks them. A pending exception of the
    /// guest is discarded.
    fn set_registers(vcpu: &mut Self::Vcpu, registers: &Self::Registers);

    /// Sets the complete state, with the effects of [`set_registers`](Self::set_registers).
    fn set_state(vcpu: &mut Self::Vcpu, state: &Self::State);

    /// Returns the complete state.
    ///
    /// # Safety
    /// The virtual CPU must be bound to the current CPU.
    unsafe fn state(vcpu: &Self::Vcpu) -> Self::State;

    /// Completes a read from a port or device register: the guest receives `size` bytes of `value`.
    fn complete_read(registers: &mut Self::Registers, size: u8, value: u32);
}

/// Properties of a machine's virtualization extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Name of the extension.
    pub technology: Technology,
    /// Number of bits in a guest-physical address.
    pub address_bits: u32,
    /// Second-level page tables support execute-only pages.
    pub execute_only: bool,
}

/// Parameters of binding a virtual CPU to a CPU.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// Value of [`Host::cpu_index`] on the CPU.
    pub cpu: u32,
    /// Number of times that cached translations of the guest's memory have become stale.
    pub epoch: u64,
    /// Owner of the floating-point registers.
    pub fpu: FpuOwner,
}

/// Owner of the floating-point registers of the CPU between a VM exit and the next VM entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FpuOwner {
    /// The kernel: the registers are swapped at every entry and exit.
    Kernel,
    /// The guest: the registers keep the guest's values.
    Guest,
}

/// Result of a VM exit other than a port access.
#[derive(Debug, PartialEq, Eq)]
pub enum ExitResult {
    /// The exit has been handled: enter the guest again.
    Again,
    /// Interrupts must be taken before the next entry. Either an interrupt is pending, or the
    /// kernel has handled an NMI, or the guest's exception will be injected
    /// ([`raised_again`](Self::raised_again)).
    Interrupted,
    /// The monitor must handle the exit.
    Exit(Exit),
}

impl ExitResult {
    /// Result of intercepting an exception of the guest that the next entry injects.
    ///
    /// Delivering the exception may cause the same exit again before any instruction executes. An
    /// example is a data breakpoint on memory that the delivery writes (CVE-2015-8104). Without
    /// this result such a loop would never take an interrupt.
    #[must_use]
    pub const fn raised_again() -> Self {
        Self::Interrupted
    }
}
