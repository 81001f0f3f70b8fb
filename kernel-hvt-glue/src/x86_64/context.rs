//! Data structure for the assembly of entry and exit.

use core::mem::offset_of;

use hvt_abi::x86_64::Registers;

use super::mitigations::Measures;

/// State that neither VMCB nor VMCS holds, and the location of further state. Addresses are plain
/// numbers, because only assembly dereferences them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Context {
    /// The guest's general registers. On SVM, RSP, RIP and RFLAGS are in the VMCB; on VMX, these
    /// are copies.
    pub(crate) registers: Registers,
    /// SVM: physical address of the VMCB.
    pub(crate) vmcb: u64,
    /// SVM: physical address of the page with the host's VMSAVE state.
    pub(crate) host_vmcb: u64,
    /// Virtual address of the guest's FPU area.
    pub(crate) guest_fpu: u64,
    /// Virtual address of the FPU area of the thread that runs the guest.
    pub(crate) host_fpu: u64,
    /// State components in both areas; 0 selects FXSAVE.
    pub(crate) components: u64,
    /// XCR0 while the guest runs.
    pub(crate) guest_xcr0: u64,
    /// XCR0 otherwise.
    pub(crate) host_xcr0: u64,
    /// Not 0 if the guest's CR4.OSXSAVE is set: the guest may then change XCR0 between entry and
    /// exit.
    pub(crate) guest_uses_xcr0: u64,
    /// VMX: the guest's CR2 between exit and entry.
    pub(crate) cr2: u64,
    /// VMX: not 0 if the VMCS has been launched on this CPU.
    pub(crate) launched: u32,
    /// VMX: not 0 if the last entry failed.
    pub(crate) entry_failed: u32,
    /// SVM: IA32_XSS of the kernel.
    pub(crate) host_xss: u64,
    /// SVM: TSC_AUX of the kernel.
    pub(crate) host_tsc_aux: u64,
    /// VMX: virtual address of [`L1D_FILL_SIZE`](super::mitigations::L1D_FILL_SIZE) bytes, for
    /// [`Measures::FILL_L1D`].
    pub(crate) l1d_fill: u64,
    /// Mitigations at entries and exits.
    pub(crate) measures: Measures,
    /// Selector for VERW: the selector of the kernel's stack segment.
    pub(crate) verw_selector: u16,
}

pub(crate) const VMCB: usize = offset_of!(Context, vmcb);
pub(crate) const HOST_VMCB: usize = offset_of!(Context, host_vmcb);
pub(crate) const GUEST_FPU: usize = offset_of!(Context, guest_fpu);
pub(crate) const HOST_FPU: usize = offset_of!(Context, host_fpu);
pub(crate) const COMPONENTS: usize = offset_of!(Context, components);
pub(crate) const GUEST_XCR0: usize = offset_of!(Context, guest_xcr0);
pub(crate) const GUEST_USES_XCR0: usize = offset_of!(Context, guest_uses_xcr0);
pub(crate) const CR2: usize = offset_of!(Context, cr2);
pub(crate) const LAUNCHED: usize = offset_of!(Context, launched);
pub(crate) const ENTRY_FAILED: usize = offset_of!(Context, entry_failed);
pub(crate) const HOST_XSS: usize = offset_of!(Context, host_xss);
pub(crate) const HOST_TSC_AUX: usize = offset_of!(Context, host_tsc_aux);
pub(crate) const L1D_FILL: usize = offset_of!(Context, l1d_fill);
pub(crate) const MEASURES: usize = offset_of!(Context, measures);
pub(crate) const VERW_SELECTOR: usize = offset_of!(Context, verw_selector);
pub(crate) const HOST_XCR0: usize = offset_of!(Context, host_xcr0);

/// Offset of a general register in [`Context`].
macro_rules! gpr {
    ($name:ident) => {
        core::mem::offset_of!($crate::x86_64::context::Context, registers)
            + core::mem::offset_of!(hvt_abi::x86_64::Registers, $name)
    };
}
pub(crate) use gpr;

/// Assembly that loads the general registers from the context at the given register, or saves them
/// there. It covers the registers that entries and exits treat in the same way, which excludes RAX,
/// RDI and RSP. This is the only list of these registers and their offsets in [`Context`].
macro_rules! general_registers {
    (load $context:literal) => {
        $crate::x86_64::context::general_registers!(@each load $context)
    };
    (save $context:literal) => {
        $crate::x86_64::context::general_registers!(@each save $context)
    };
    (@each $what:ident $($context:literal)?) => {
        $crate::x86_64::context::general_registers!(
            @$what $($context)? rbx 8, rcx 16, rdx 24, rsi 32, rbp 48, r8 64, r9 72, r10 80, r11 88, r12 96, r13 104,
            r14 112, r15 120
        )
    };
    (@load $context:literal $($name:ident $offset:literal),*) => {
        concat!($("mov ", stringify!($name), ", [", $context, " + ", $offset, "]\n"),*)
    };
    (@save $context:literal $($name:ident $offset:literal),*) => {
        concat!($("mov [", $context, " + ", $offset, "], ", stringify!($name), "\n"),*)
    };
    (@check $($name:ident $offset:literal),*) => {
        true $(&& gpr!($name) == $offset)*
    };
}
pub(crate) use general_registers;

const _: () = assert!(general_registers!(@each check));
