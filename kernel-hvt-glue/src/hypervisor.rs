//! The machine's virtualization extension: found once, enabled on each CPU.

use alloc::sync::Arc;
use core::{fmt, marker::PhantomData, mem::ManuallyDrop};

use hvt_abi::x86_64::Cr4;

use crate::{
    host::{Frames, Host, OutOfMemory},
    paging::Level,
    vm::Vm,
    x86_64::{
        capabilities::{Capabilities, Unsupported, discover},
        cpuid::native,
        emulate::Offer,
        mitigations::{Measures, Mitigations, prediction_barrier},
        privileged::{cr4, rdmsr, xgetbv},
        svm::{capabilities::SvmCapabilities, cpu::SvmCpu, maps::PermissionMaps},
        tag::Tags,
        vmx::{
            capabilities::VmxCapabilities,
            cpu::{VPIDS, VmxCpu},
            msr_bitmap::MsrBitmap,
        },
    },
};

/// Why the extension cannot be enabled on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnableError {
    /// It is enabled already: by this crate, and the [`Cpu`] is somewhere, or by somebody else.
    #[error("virtualization is in use on this CPU already")]
    InUse,
    /// XCR0 lacks components that the CPU had on which the [`Hypervisor`] was made.
    #[error("XCR0 is {found:#x} on this CPU, but guests expect {expected:#x}")]
    FpuDiffers {
        /// XCR0 of this CPU.
        found: u64,
        /// What it has to contain.
        expected: u64,
    },
    /// The firmware has locked VMX off on this CPU, but not on the one on which the [`Hypervisor`] was made.
    #[error("the firmware has disabled VMX on this CPU: enable it in the machine's setup (IA32_FEATURE_CONTROL)")]
    DisabledByFirmware,
    /// VMX operation wants other values of control registers than the kernel's (CR0.NE, for example).
    #[error("VMX does not run with CR0 = {cr0:#x}, CR4 = {cr4:#x}")]
    ControlRegisters {
        /// CR0.
        cr0: u64,
        /// CR4, without VMXE.
        cr4: u64,
    },
    /// The kernel runs with shadow stacks or indirect branch tracking for itself. Entries and exits do not keep these; the
    /// same for user mode may be on.
    #[error("the kernel has control-flow enforcement for itself enabled: IA32_S_CET is {s_cet:#x}")]
    SupervisorCet {
        /// IA32_S_CET.
        s_cet: u64,
    },
    /// The kernel has no frames left.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// What all virtual machines share. One for a kernel; everything made from it keeps what it needs of it alive.
pub struct Hypervisor<H: Host> {
    pub(crate) shared: Arc<Shared<H>>,
}

/// See [`Hypervisor`].
pub(crate) struct Shared<H: Host> {
    pub(crate) host: H,
    pub(crate) technology: Technology<H>,
    pub(crate) offer: Offer,
    pub(crate) mitigations: Mitigations,
    /// The level at which second-level page tables have their root.
    pub(crate) root_level: Level,
}

/// The vendor's extension, and which ports and MSRs guests reach.
pub(crate) enum Technology<H: Host> {
    Svm(SvmCapabilities, PermissionMaps<H>),
    Vmx(VmxCapabilities, MsrBitmap<H>),
}

impl<H: Host> Shared<H> {
    fn capabilities(&self) -> Capabilities {
        match &self.technology {
            Technology::Svm(svm, _) => Capabilities::Svm(*svm),
            Technology::Vmx(vmx, _) => Capabilities::Vmx(*vmx),
        }
    }
}

impl<H: Host> Hypervisor<H> {
    /// Looks at the CPU this runs on, which stands for all CPUs of the machine, and sets up what is shared.
    ///
    /// # Errors
    /// The reason why this machine cannot run guests.
    ///
    /// # Safety
    /// The caller runs at CPL 0 in 64-bit mode.
    pub unsafe fn new(host: H) -> Result<Self, Unsupported> {
        // SAFETY: the caller's promise; `discover` asks for registers that CPUID announces.
        let capabilities = discover(native, |msr| unsafe { rdmsr(msr) })?;
        // SAFETY: the caller's promise.
        let (xcr0, cr4) = unsafe { (host_xcr0(), cr4()) };
        let mut offer = Offer::new(&native, xcr0);
        let root_level = match &capabilities {
            Capabilities::Svm(_) => SvmCapabilities::root_level(cr4),
            Capabilities::Vmx(vmx) => {
                offer.cr4 &= vmx.cr4_fixed1;
                Level::ROOT4
            }
        };
        Ok(Self::assemble(host, capabilities, offer, root_level)?)
    }

    /// Takes memory for what is shared.
    pub(crate) fn assemble(
        host: H,
        capabilities: Capabilities,
        offer: Offer,
        root_level: Level,
    ) -> Result<Self, OutOfMemory> {
        let mitigations = *capabilities.mitigations();
        let technology = match capabilities {
            Capabilities::Svm(svm) => Technology::Svm(svm, PermissionMaps::new(&host)?),
            Capabilities::Vmx(vmx) => Technology::Vmx(vmx, MsrBitmap::new(&host)?),
        };
        Ok(Self { shared: Arc::new(Shared { host, technology, offer, mitigations, root_level }) })
    }

    /// What the extension of this machine can do.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.shared.capabilities()
    }

    /// Enables the extension on the CPU this runs on. The kernel keeps the [`Cpu`] in its per-CPU data, and drops it on
    /// the same CPU to disable the extension again.
    ///
    /// # Errors
    /// [`EnableError`]; nothing was changed.
    ///
    /// # Safety
    /// The caller runs at CPL 0 in 64-bit mode, with CR0.TS and CR0.EM clear. In the middle of a call of this crate, and
    /// while a [`Bound`](crate::Bound) exists, the kernel may take interrupts on this CPU, but runs no other thread on it
    /// and moves this one nowhere. While the [`Cpu`] exists,
    /// nothing else changes EFER.SVME, EFER.AIBRSE, VM_HSAVE_PA, IA32_XSS and TSC_AUX (AMD), or CR4.VMXE and the state of
    /// VMX operation (Intel), and nothing clears IA32_SPEC_CTRL.IBRS.
    pub unsafe fn enable(&self) -> Result<Cpu<H>, EnableError> {
        let Shared { host, technology, offer, .. } = &*self.shared;
        // SAFETY: the caller's promise.
        let xcr0 = unsafe { host_xcr0() }.unwrap_or(0);
        if offer.components & !xcr0 != 0 {
            return Err(EnableError::FpuDiffers { found: xcr0, expected: offer.components });
        }
        // SAFETY: the caller's promise; IA32_S_CET exists where CR4.CET is set.
        refuse_supervisor_cet(unsafe { cr4() }, |register| unsafe { rdmsr(register) })?;
        let fpu = Frames::allocate(host, 0)?;
        // SAFETY: the caller's promise; the extension is there, since these are its capabilities.
        let (tags, extension) = unsafe {
            match technology {
                Technology::Svm(svm, _) => {
                    (Tags::new(svm.asids), Extension::Svm(SvmCpu::enable(host, &svm.mitigations)?))
                }
                Technology::Vmx(vmx, _) => (Tags::new(VPIDS), Extension::Vmx(VmxCpu::enable(host, vmx)?)),
            }
        };
        Ok(Cpu {
            shared: self.shared.clone(),
            index: host.cpu_index(),
            fpu,
            xcr0,
            last_vm: 0,
            tags,
            extension: ManuallyDrop::new(extension),
            stays_here: PhantomData,
        })
    }
}

impl<H: Host> Clone for Hypervisor<H> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<H: Host> fmt::Debug for Hypervisor<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hypervisor").field(&self.capabilities()).finish()
    }
}

/// XCR0, if the kernel has enabled XSAVE.
///
/// # Safety
/// CPL 0.
unsafe fn host_xcr0() -> Option<u64> {
    // SAFETY: the caller's promise; XGETBV runs only where OSXSAVE is set.
    unsafe { Cr4::from_bits_retain(cr4()).contains(Cr4::OSXSAVE).then(|| xgetbv()) }
}

/// Refuses to run guests where the kernel has a shadow stack or tracks indirect branches, which the assembly of entry and
/// exit does not expect. `rdmsr` is called only for a register that exists.
fn refuse_supervisor_cet(cr4: u64, rdmsr: impl Fn(u32) -> u64) -> Result<(), EnableError> {
    /// CR4.CET
    const CET: u64 = 1 << 23;
    /// IA32_S_CET
    const S_CET: u32 = 0x6a2;
    /// SH_STK_EN and ENDBR_EN.
    const ENABLED: u64 = 1 << 0 | 1 << 2;
    if cr4 & CET == 0 {
        return Ok(());
    }
    let s_cet = rdmsr(S_CET);
    if s_cet & ENABLED == 0 { Ok(()) } else { Err(EnableError::SupervisorCet { s_cet }) }
}

/// A CPU on which the extension is enabled. Dropped on that CPU, it restores what was there before; dropped on another
/// one, it leaves the extension enabled and its few frames to the CPU, which may still use them.
pub struct Cpu<H: Host> {
    pub(crate) shared: Arc<Shared<H>>,
    index: u32,
    /// Where the FPU state goes of whoever runs a guest here.
    fpu: Frames<H>,
    xcr0: u64,
    /// The [`Vm`] that was bound last.
    last_vm: u64,
    pub(crate) tags: Tags,
    pub(crate) extension: ManuallyDrop<Extension<H>>,
    stays_here: PhantomData<*mut ()>,
}

/// The vendor's part of a [`Cpu`].
pub(crate) enum Extension<H: Host> {
    Svm(SvmCpu<H>),
    Vmx(VmxCpu<H>),
}

/// What a virtual CPU gets to know when it is bound to a CPU.
pub(crate) struct Binding {
    /// [`Cpu::index`].
    pub(crate) cpu: u32,
    /// How often translations of the guest's memory have become stale.
    pub(crate) epoch: u64,
    /// Virtual address of the area for the FPU state of whoever runs the guest.
    pub(crate) host_fpu: u64,
    /// XCR0 of the kernel.
    pub(crate) host_xcr0: u64,
}

impl<H: Host> Cpu<H> {
    /// [`Host::cpu_index`] of this CPU.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Prepares the CPU for guests of `vm`.
    ///
    /// # Safety
    /// CPL 0 on this CPU.
    #[inline]
    pub(crate) unsafe fn admit(&mut self, vm: &Vm<H>) -> Binding {
        if self.last_vm != vm.id() {
            self.last_vm = vm.id();
            if self.shared.mitigations.barrier {
                // SAFETY: the caller's promise; CPUID announces it.
                unsafe { prediction_barrier() };
            }
        }
        Binding { cpu: self.index, epoch: vm.epoch(), host_fpu: self.fpu.as_ptr() as u64, host_xcr0: self.xcr0 }
    }
}

impl<H: Host> Cpu<H> {
    /// Takes away from the CPU what a guest could have left there for its monitor.
    ///
    /// # Safety
    /// CPL 0 on this CPU.
    #[inline]
    pub(crate) unsafe fn dismiss(&mut self) {
        if self.shared.mitigations.measures.contains(Measures::BARRIER_WHEN_UNBOUND) {
            // SAFETY: the caller's promise; CPUID announces it.
            unsafe { prediction_barrier() };
        }
    }
}

impl<H: Host> Drop for Cpu<H> {
    fn drop(&mut self) {
        // SAFETY: `extension` is not used again.
        let extension = unsafe { ManuallyDrop::take(&mut self.extension) };
        let is_here = self.shared.host.cpu_index() == self.index;
        match extension {
            // SAFETY: a `Cpu` exists at CPL 0 only, and this is the CPU.
            Extension::Svm(mut svm) if is_here => unsafe { svm.disable() },
            Extension::Svm(svm) => svm.abandon(),
            // SAFETY: as above.
            Extension::Vmx(mut vmx) if is_here => unsafe { vmx.disable() },
            Extension::Vmx(vmx) => vmx.abandon(),
        }
    }
}

impl<H: Host> fmt::Debug for Cpu<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu").field("index", &self.index).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_with_control_flow_enforcement_for_itself_is_refused() {
        let refuse = |cr4, s_cet| refuse_supervisor_cet(cr4, move |_| s_cet);
        assert_eq!(refuse_supervisor_cet(0x6f0, |_| unreachable!()), Ok(()));
        assert_eq!(refuse(1 << 23, 0), Ok(()), "for user mode only");
        assert_eq!(refuse(1 << 23, 1), Err(EnableError::SupervisorCet { s_cet: 1 }));
        assert_eq!(refuse(1 << 23, 4), Err(EnableError::SupervisorCet { s_cet: 4 }));
    }
}
