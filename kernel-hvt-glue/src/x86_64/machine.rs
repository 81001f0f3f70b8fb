//! Implementation of [`Arch`] for x86_64, on top of the vendor's extension.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use alloc::boxed::Box;

use hvt_abi::{
    kernel::{Io, VcpuState},
    x86_64::{Cr4, Registers},
};
use raw_cpuid::{CpuId, CpuIdReader};

use super::{
    cpu::CpuState,
    cpuid::native,
    emulate::Offer,
    error::{BindError, EnableError, Unsupported},
    fpu,
    mitigations::{Measures, Mitigations, prediction_barrier},
    privileged::{InterruptFlag, cr4, rdmsr, xgetbv},
    svm::{capabilities::SvmCapabilities, vendor::Svm},
    vendor::{Vendor, VendorVcpu},
    vmx::{capabilities::VmxCapabilities, vendor::Vmx},
};
use crate::{
    arch::{Arch, Binding, Capabilities, ExitResult, FpuOwner},
    host::{Host, Hpa, OutOfMemory},
    memory::ReadMemory,
    paging::AddressSpace,
};

/// Machine with VMX or SVM.
///
/// The kernel must run at CPL 0 in 64-bit mode, with CR0.TS and CR0.EM clear when it enables the
/// extension. While the extension is enabled on a CPU, no other code on that CPU may change:
/// - EFER.SVME, EFER.AIBRSE, VM_HSAVE_PA, IA32_XSS and TSC_AUX (AMD),
/// - CR4.VMXE and the state of VMX operation (Intel).
///
/// No code may clear IA32_SPEC_CTRL.IBRS during that time.
pub struct X86_64<H: Host> {
    vendor: Box<dyn Vendor<H>>,
    offer: Offer,
    mitigations: Mitigations,
}

/// Virtual CPU on either extension.
pub struct Vcpu<H: Host>(Box<dyn VendorVcpu<H>>);

impl<H: Host> X86_64<H> {
    /// Detects the extension of the current CPU.
    ///
    /// # Errors
    /// Returns [`Unsupported`] with the reason that this machine cannot run guests.
    ///
    /// # Safety
    /// Must run at CPL 0 in 64-bit mode.
    pub(crate) unsafe fn discover(host: &H) -> Result<Self, Unsupported> {
        // SAFETY: guaranteed by the caller; a register is read only if CPUID reports it.
        let (vendor, xcr0) = unsafe { (choose(host, cr4(), native, |register| rdmsr(register))?, host_xcr0()) };
        let mut offer = Offer::new(&native, xcr0);
        offer.cr4 &= vendor.allowed_cr4();
        Ok(Self::new(vendor, offer))
    }

    pub(crate) fn new(vendor: Box<dyn Vendor<H>>, offer: Offer) -> Self {
        let mitigations = vendor.mitigations();
        Self { vendor, offer, mitigations }
    }
}

/// Returns the CPU's extension. `rdmsr` is called only for registers that CPUID reports.
pub(super) fn choose<H: Host, R: CpuIdReader>(
    host: &H,
    host_cr4: u64,
    cpuid: R,
    rdmsr: impl Fn(u32) -> u64,
) -> Result<Box<dyn Vendor<H>>, Unsupported> {
    let id = CpuId::with_cpuid_reader(cpuid.clone());
    if id.get_extended_processor_and_feature_identifiers().is_some_and(|extended| extended.has_svm()) {
        let capabilities = SvmCapabilities::discover(&id, &cpuid, host_cr4, rdmsr)?;
        return Ok(Box::new(Svm::new(host, capabilities)?));
    }
    if id.get_feature_info().is_some_and(|features| features.has_vmx()) {
        let capabilities = VmxCapabilities::discover(&id, &cpuid, rdmsr)?;
        return Ok(Box::new(Vmx::new(host, capabilities)?));
    }
    Err(Unsupported::NoExtension)
}

/// Returns XCR0 if the kernel has enabled XSAVE.
///
/// # Safety
/// Must run at CPL 0.
unsafe fn host_xcr0() -> Option<u64> {
    // SAFETY: guaranteed by the caller; XGETBV runs only if OSXSAVE is set.
    unsafe { Cr4::from_bits_retain(cr4()).contains(Cr4::OSXSAVE).then(|| xgetbv()) }
}

impl<H: Host> Arch<H> for X86_64<H> {
    type Registers = Registers;
    type State = VcpuState;
    type EnableError = EnableError;
    type BindError = BindError;
    type Cpu = CpuState<H>;
    type Vcpu = Vcpu<H>;

    fn capabilities(&self) -> Capabilities {
        self.vendor.capabilities()
    }

    fn new_address_space(&self, host: &H) -> Result<Box<dyn AddressSpace>, OutOfMemory> {
        self.vendor.new_address_space(host)
    }

    fn new_vcpu(&self, host: &H, root: Hpa, state: &VcpuState) -> Result<Vcpu<H>, OutOfMemory> {
        self.vendor.new_vcpu(host, self.offer, root, state).map(Vcpu)
    }

    unsafe fn enable(&self, host: &H) -> Result<CpuState<H>, EnableError> {
        // SAFETY: guaranteed by the caller; IA32_S_CET exists if CR4.CET is set, and this CPU has
        // the extension.
        unsafe {
            let (xcr0, expected) = (host_xcr0().unwrap_or(0), self.offer.components);
            if expected & !xcr0 != 0 {
                return Err(EnableError::FpuDiffers { found: xcr0, expected });
            }
            refuse_supervisor_cet(cr4(), |register| rdmsr(register))?;
            let mut cpu = CpuState::new(host, xcr0, self.vendor.tags(), &self.mitigations)?;
            self.vendor.enable(&mut cpu)?;
            cpu.applied = self.mitigations.apply();
            Ok(cpu)
        }
    }

    unsafe fn disable(&self, mut cpu: CpuState<H>) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            cpu.applied.undo();
            self.vendor.disable(&mut cpu);
        }
    }

    fn abandon(&self, cpu: CpuState<H>) {
        cpu.abandon();
    }

    #[inline]
    unsafe fn change_vm(&self, _cpu: &mut CpuState<H>) {
        if self.mitigations.barrier {
            // SAFETY: guaranteed by the caller; CPUID reports IBPB.
            unsafe { prediction_barrier() };
        }
    }

    #[inline]
    unsafe fn bind(&self, vcpu: &mut Vcpu<H>, cpu: &mut CpuState<H>, binding: &Binding) -> Result<(), BindError> {
        // SAFETY: guaranteed by the caller.
        unsafe {
            vcpu.0.bind(cpu, binding)?;
            if binding.fpu == FpuOwner::Guest {
                fpu::load_with_interrupts_off(vcpu.0.context());
            }
        }
        Ok(())
    }

    #[inline]
    unsafe fn unbind(&self, vcpu: &mut Vcpu<H>, _cpu: &mut CpuState<H>, binding: &Binding) {
        // SAFETY: guaranteed by the caller. `bind` has loaded the guest's FPU state if the guest is
        // its owner.
        unsafe {
            if binding.fpu == FpuOwner::Guest {
                fpu::unload_with_interrupts_off(vcpu.0.context());
            }
            vcpu.0.unbind();
            if self.mitigations.measures.contains(Measures::BARRIER_WHEN_UNBOUND) {
                prediction_barrier();
            }
        }
    }

    #[inline]
    unsafe fn step(
        &self,
        vcpu: &mut Vcpu<H>,
        cpu: &mut CpuState<H>,
        binding: &Binding,
        host: &H,
        memory: &dyn ReadMemory,
    ) -> (Result<Io, ExitResult>, bool) {
        // SAFETY: guaranteed by the caller. Interrupts are disabled from the call of `wants_cpu` to
        // the entry, and restored after the exit has been handled. There, an interrupt that caused
        // the exit is taken.
        unsafe {
            let interrupts = InterruptFlag::clear();
            let result = if host.wants_cpu() {
                Err(ExitResult::Exit(hvt_abi::kernel::Exit::Interrupted))
            } else {
                vcpu.0.step(cpu, memory, binding.fpu)
            };
            (result, interrupts.restore())
        }
    }

    fn registers(vcpu: &Vcpu<H>) -> Registers {
        vcpu.0.registers()
    }

    fn set_registers(vcpu: &mut Vcpu<H>, registers: &Registers) {
        vcpu.0.set_registers(registers);
    }

    fn set_state(vcpu: &mut Vcpu<H>, state: &VcpuState) {
        vcpu.0.set_state(state);
    }

    unsafe fn state(vcpu: &Vcpu<H>) -> VcpuState {
        // SAFETY: guaranteed by the caller.
        unsafe { vcpu.0.state() }
    }

    /// Registers of 8 and 16 bits keep the rest of RAX; a register of 32 bits clears it (SDM volume
    /// 1, 3.4.1.1).
    fn complete_read(registers: &mut Registers, size: u8, value: u32) {
        let value = u64::from(value);
        registers.rax = match size {
            1 => registers.rax & !0xff | value & 0xff,
            2 => registers.rax & !0xffff | value & 0xffff,
            _ => value,
        };
    }
}

/// Returns an error if the kernel has a shadow stack or tracks indirect branches, which the
/// assembly of entry and exit does not support. `rdmsr` is called only for a register that exists.
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
