//! Implementation of [`Vendor`] for SVM.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use alloc::boxed::Box;

use hvt_abi::{
    kernel::{Technology, VcpuState},
    x86_64::{Efer, msr},
};

use super::{capabilities::SvmCapabilities, maps::PermissionMaps, vcpu::SvmVcpu};
use crate::{
    arch::Capabilities,
    host::{Host, Hpa, OutOfMemory},
    paging::{AddressSpace, Npt, PageTable},
    x86_64::{
        cpu::CpuState,
        emulate::Offer,
        error::EnableError,
        mitigations::Mitigations,
        privileged::{rdmsr, wrmsr},
        vendor::{Vendor, VendorVcpu},
    },
};

/// VM_HSAVE_PA (APM volume 2, 15.30.4): address of the area in which VMRUN saves the host's state.
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// Machine with SVM.
#[derive(Debug)]
pub(crate) struct Svm<H: Host> {
    pub(super) capabilities: SvmCapabilities,
    pub(super) maps: PermissionMaps<H>,
}

impl<H: Host> Svm<H> {
    pub(crate) fn new(host: &H, capabilities: SvmCapabilities) -> Result<Self, OutOfMemory> {
        Ok(Self { capabilities, maps: PermissionMaps::new(host)? })
    }
}

impl<H: Host> Vendor<H> for Svm<H> {
    fn capabilities(&self) -> Capabilities {
        let address_bits = self.capabilities.physical_address_bits;
        Capabilities { technology: Technology::Svm, address_bits, execute_only: false }
    }

    fn allowed_cr4(&self) -> u64 {
        !0
    }

    fn mitigations(&self) -> Mitigations {
        self.capabilities.mitigations
    }

    fn new_address_space(&self, host: &H) -> Result<Box<dyn AddressSpace>, OutOfMemory> {
        let SvmCapabilities { huge_pages, root_level, physical_address_bits, .. } = self.capabilities;
        Ok(Box::new(PageTable::new(host, Npt { huge_pages }, root_level, physical_address_bits)?))
    }

    fn new_vcpu(
        &self,
        host: &H,
        offer: Offer,
        root: Hpa,
        state: &VcpuState,
    ) -> Result<Box<dyn VendorVcpu<H>>, OutOfMemory> {
        Ok(Box::new(SvmVcpu::new(host, self.capabilities, &self.maps, offer, root, state)?))
    }

    fn tags(&self) -> u32 {
        self.capabilities.asids
    }

    unsafe fn enable(&self, cpu: &mut CpuState<H>) -> Result<(), EnableError> {
        // SAFETY: guaranteed by the caller; both registers exist on CPUs with SVM.
        unsafe {
            let efer = rdmsr(msr::EFER);
            if efer & Efer::SVME.bits() != 0 {
                return Err(EnableError::InUse);
            }
            wrmsr(msr::EFER, efer | Efer::SVME.bits());
            cpu.previous_host_save = rdmsr(VM_HSAVE_PA);
            wrmsr(VM_HSAVE_PA, cpu.own_frame().0);
        }
        cpu.measures |= cpu.msrs.measures();
        Ok(())
    }

    unsafe fn disable(&self, cpu: &mut CpuState<H>) {
        // SAFETY: guaranteed by the caller; the values were set before.
        unsafe {
            wrmsr(VM_HSAVE_PA, cpu.previous_host_save);
            wrmsr(msr::EFER, rdmsr(msr::EFER) & !Efer::SVME.bits());
        }
    }
}
