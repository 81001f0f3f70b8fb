//! The seam between AMD's and Intel's extensions and what they share.

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
    arch::{Binding, Capabilities, FpuOwner, Step},
    host::{Host, Hpa, OutOfMemory},
    memory::ReadMemory,
    paging::AddressSpace,
};

/// A vendor's virtualization extension, and which ports and MSRs guests reach.
pub(crate) trait Vendor<H: Host>: Send + Sync {
    fn capabilities(&self) -> Capabilities;

    /// Bits of CR4 that a guest can have while the extension runs it.
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

    /// Number of tags of cached translations, counting that of the host.
    fn tags(&self) -> u32;

    /// Enables the extension, with the frames of `cpu`.
    ///
    /// # Safety
    /// CPL 0, the CPU has the extension, and the caller stays on it.
    unsafe fn enable(&self, cpu: &mut CpuState<H>) -> Result<(), EnableError>;

    /// Disables the extension and restores what was there before.
    ///
    /// # Safety
    /// CPL 0 on the CPU that [`enable`](Self::enable) ran on.
    unsafe fn disable(&self, cpu: &mut CpuState<H>);
}

/// A virtual CPU.
pub(crate) trait VendorVcpu<H: Host>: Send {
    /// Prepares for entries on this CPU. Undone by [`unbind`](Self::unbind).
    ///
    /// # Safety
    /// CPL 0 on the CPU of `cpu`, on which the extension is enabled.
    unsafe fn bind(&mut self, cpu: &mut CpuState<H>, binding: &Binding) -> Result<(), BindError>;

    /// Restores what entries and exits have changed of the kernel's state.
    ///
    /// # Safety
    /// CPL 0 on the CPU that it was bound to.
    unsafe fn unbind(&mut self);

    /// Enters the guest once. `Ok` where it left for a port, for that is what guests do most, and it ends none.
    ///
    /// # Safety
    /// Interrupts disabled; after [`bind`](Self::bind) to this CPU, which has run no other virtual CPU since; `memory` is
    /// what the tables map on which the guest runs.
    unsafe fn step(&mut self, cpu: &mut CpuState<H>, memory: &dyn ReadMemory, fpu: FpuOwner) -> Result<Io, Step>;

    /// Registers and addresses that the assembly works on, those of the FPU areas among them.
    fn context(&mut self) -> &mut Context;

    /// General registers, RIP and RFLAGS.
    fn registers(&self) -> Registers;

    /// Sets them. An exception that was about to be delivered is forgotten.
    fn set_registers(&mut self, registers: &Registers);

    /// Sets all but FPU, debug registers and XCR0.
    fn set_state(&mut self, state: &VcpuState);

    /// Returns the state that [`set_state`](Self::set_state) sets.
    ///
    /// # Safety
    /// CPL 0 on the CPU that this is bound to.
    unsafe fn state(&self) -> VcpuState;
}
