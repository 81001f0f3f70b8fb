//! Implementation of [`Vendor`] for VMX (SDM volume 3, 24.6 and 24.7).

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use alloc::boxed::Box;

use hvt_abi::{
    kernel::{Technology, VcpuState},
    x86_64::Cr4,
};
use x86::msr::IA32_FEATURE_CONTROL;

use super::{
    capabilities::{LOCK, VMXON_OUTSIDE_SMX, VmxCapabilities},
    instructions::{vmxoff, vmxon},
    msr_bitmap::MsrBitmap,
    vcpu::VmxVcpu,
};
use crate::{
    arch::Capabilities,
    host::{Host, Hpa, OutOfMemory},
    paging::{AddressSpace, Ept, Level, PageTable},
    x86_64::{
        cpu::CpuState,
        emulate::Offer,
        error::EnableError,
        mitigations::Mitigations,
        privileged::{cr0, cr4, rdmsr, set_cr4, wrmsr},
        vendor::{Vendor, VendorVcpu},
    },
};

/// Number of virtual-processor identifiers, which have 16 bits.
const VPIDS: u32 = 1 << 16;

/// Machine with VMX.
#[derive(Debug)]
pub(crate) struct Vmx<H: Host> {
    capabilities: VmxCapabilities,
    msr_bitmap: MsrBitmap<H>,
}

impl<H: Host> Vmx<H> {
    pub(crate) fn new(host: &H, capabilities: VmxCapabilities) -> Result<Self, OutOfMemory> {
        Ok(Self { capabilities, msr_bitmap: MsrBitmap::new(host)? })
    }
}

impl<H: Host> Vendor<H> for Vmx<H> {
    fn capabilities(&self) -> Capabilities {
        let VmxCapabilities { physical_address_bits: address_bits, execute_only, .. } = self.capabilities;
        Capabilities { technology: Technology::Vmx, address_bits, execute_only }
    }

    fn allowed_cr4(&self) -> u64 {
        self.capabilities.cr4_fixed1
    }

    fn mitigations(&self) -> Mitigations {
        self.capabilities.mitigations
    }

    fn new_address_space(&self, host: &H) -> Result<Box<dyn AddressSpace>, OutOfMemory> {
        let VmxCapabilities { execute_only, large_pages, huge_pages, physical_address_bits, mitigations, .. } =
            self.capabilities;
        let format = Ept { execute_only, large_pages, huge_pages, small_code: mitigations.small_code };
        Ok(Box::new(PageTable::new(host, format, Level::ROOT4, physical_address_bits)?))
    }

    fn new_vcpu(
        &self,
        host: &H,
        offer: Offer,
        root: Hpa,
        state: &VcpuState,
    ) -> Result<Box<dyn VendorVcpu<H>>, OutOfMemory> {
        Ok(Box::new(VmxVcpu::new(host, self.capabilities, self.msr_bitmap.base(), offer, root, state)?))
    }

    fn tags(&self) -> u32 {
        VPIDS
    }

    unsafe fn enable(&self, cpu: &mut CpuState<H>) -> Result<(), EnableError> {
        let capabilities = &self.capabilities;
        // SAFETY: guaranteed by the caller; the registers exist on CPUs with VMX, and the frame
        // will belong to the CPU.
        unsafe {
            let cr4 = cr4();
            if Cr4::from_bits_retain(cr4).contains(Cr4::VMXE) {
                return Err(EnableError::InUse);
            }
            // If the firmware has not locked the register, lock it with VMX enabled.
            let feature_control = rdmsr(IA32_FEATURE_CONTROL);
            if feature_control & LOCK == 0 {
                wrmsr(IA32_FEATURE_CONTROL, feature_control | VMXON_OUTSIDE_SMX | LOCK);
            } else if feature_control & VMXON_OUTSIDE_SMX == 0 {
                return Err(EnableError::DisabledByFirmware);
            }
            let (cr0, new_cr4) = (cr0(), cr4 | Cr4::VMXE.bits());
            let is_fixed = |value: u64, must: u64, may: u64| value & must == must && value & !may == 0;
            if !is_fixed(cr0, capabilities.cr0_fixed0, capabilities.cr0_fixed1)
                || !is_fixed(new_cr4, capabilities.cr4_fixed0, capabilities.cr4_fixed1)
            {
                return Err(EnableError::ControlRegisters { cr0, cr4 });
            }
            cpu.own_frame_ptr().cast::<u32>().write(capabilities.revision);
            set_cr4(new_cr4);
            if vmxon(cpu.own_frame().0).is_err() {
                set_cr4(cr4);
                return Err(EnableError::InUse);
            }
        }
        Ok(())
    }

    unsafe fn disable(&self, _cpu: &mut CpuState<H>) {
        // SAFETY: guaranteed by the caller. A VMCS that is still active on this CPU belongs to a
        // virtual CPU that has not been unbound, which leaks its frame.
        unsafe {
            vmxoff();
            set_cr4(cr4() & !Cr4::VMXE.bits());
        }
    }
}
