//! Interface between the common code and AMD's and Intel's extensions.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use alloc::boxed::Box;

use hvt_abi::{
    kernel::{Io, VcpuState},
    x86_64::Registers,
};

use super::{
    context::Context,
    cpu::CpuState,
    emulate::Offer,
    error::{BindError, EnableError},
    mitigations::Mitigations,
};
use crate::{
    arch::{Binding, Capabilities, ExitResult, FpuOwner},
    host::{Host, Hpa, OutOfMemory},
    memory::ReadMemory,
    paging::AddressSpace,
};

/// Virtualization extension of a vendor, with the permissions for ports and MSRs.
pub(crate) trait Vendor<H: Host>: Send + Sync {
    fn capabilities(&self) -> Capabilities;

    /// Returns the bits of CR4 that a guest can set under the extension.
    fn allowed_cr4(&self) -> u64;

    fn mitigations(&self) -> Mitigations;

    fn new_address_space(&self, host: &H) -> Result<Box<dyn AddressSpace>, OutOfMemory>;

    fn new_vcpu(
        &self,
        host: &H,
        offer: Offer,
        root: Hpa,
        state: &VcpuState,
    ) -> Result<Box<dyn VendorVcpu<H>>, OutOfMemory>;

    /// Returns the number of tags of cached translations, including the host's.
    fn tags(&self) -> u32;

    /// Enables the extension, with the frames of `cpu`.
    ///
    /// # Safety
    /// Must run at CPL 0 on a CPU that has the extension, and the caller must stay on that CPU.
    unsafe fn enable(&self, cpu: &mut CpuState<H>) -> Result<(), EnableError>;

    /// Disables the extension and restores the previous state.
    ///
    /// # Safety
    /// Must run at CPL 0 on the CPU of [`enable`](Self::enable).
    unsafe fn disable(&self, cpu: &mut CpuState<H>);
}

/// Virtual CPU of a vendor.
pub(crate) trait VendorVcpu<H: Host>: Send {
    /// Prepares for entries on this CPU. [`unbind`](Self::unbind) reverts the preparation.
    ///
    /// # Safety
    /// Must run at CPL 0 on the CPU of `cpu`, with the extension enabled.
    unsafe fn bind(&mut self, cpu: &mut CpuState<H>, binding: &Binding) -> Result<(), BindError>;

    /// Restores the kernel's state that entries and exits have changed.
    ///
    /// # Safety
    /// Must run at CPL 0 on the CPU to which the virtual CPU is bound.
    unsafe fn unbind(&mut self);

    /// Enters the guest once. Returns `Ok` for a port access, which is the most frequent exit and
    /// never ends the guest.
    ///
    /// # Safety
    /// Must run with interrupts disabled, after [`bind`](Self::bind) to this CPU, which must not
    /// have run another virtual CPU since. `memory` must be the memory that the guest's
    /// second-level tables map.
    unsafe fn step(&mut self, cpu: &mut CpuState<H>, memory: &dyn ReadMemory, fpu: FpuOwner) -> Result<Io, ExitResult>;

    /// Returns the registers and addresses for the assembly, including the addresses of the FPU
    /// areas.
    fn context(&mut self) -> &mut Context;

    /// Returns general registers, RIP and RFLAGS.
    fn registers(&self) -> Registers;

    /// Sets general registers, RIP and RFLAGS. A pending exception is discarded.
    fn set_registers(&mut self, registers: &Registers);

    /// Sets all state except FPU, debug registers and XCR0.
    fn set_state(&mut self, state: &VcpuState);

    /// Returns the state that [`set_state`](Self::set_state) sets.
    ///
    /// # Safety
    /// Must run at CPL 0 on the CPU to which the virtual CPU is bound.
    unsafe fn state(&self) -> VcpuState;
}
