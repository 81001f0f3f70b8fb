//! VMX on one CPU: switched on and off (SDM volume 3, 24.6 and 24.7).

use hvt_abi::x86_64::Cr4;

use super::{
    capabilities::{FEATURE_CONTROL, LOCK, VMXON_OUTSIDE_SMX, VmxCapabilities},
    host_state::HostMsrs,
    instructions::{vmxoff, vmxon},
};
use crate::{
    host::{Frames, Host},
    hypervisor::EnableError,
    x86_64::{
        mitigations::{Applied, L1D_FILL_ORDER, Measures},
        privileged::{cr0, cr4, rdmsr, set_cr4, wrmsr},
    },
};

/// Virtual-processor identifiers have 16 bits.
pub(crate) const VPIDS: u32 = 1 << 16;

/// A CPU in VMX operation.
#[derive(Debug)]
pub(crate) struct VmxCpu<H: Host> {
    /// The VMXON region: the CPU's own.
    region: Frames<H>,
    /// Memory to read for [`Measures::FILL_L1D`].
    pub(super) l1d_fill: Option<Frames<H>>,
    applied: Applied,
    pub(super) host_msrs: HostMsrs,
}

impl<H: Host> VmxCpu<H> {
    /// Switches VMX on.
    ///
    /// # Safety
    /// CPL 0, VMX is supported, and the caller stays on this CPU.
    pub(crate) unsafe fn enable(host: &H, capabilities: &VmxCapabilities) -> Result<Self, EnableError> {
        let region = new_region(host, capabilities)?;
        let has_to_fill = capabilities.mitigations.measures.contains(Measures::FILL_L1D);
        let l1d_fill = has_to_fill.then(|| Frames::allocate(host, L1D_FILL_ORDER)).transpose()?;
        // SAFETY: the caller's promise; the registers exist where VMX does.
        unsafe {
            let cr4 = cr4();
            if Cr4::from_bits_retain(cr4).contains(Cr4::VMXE) {
                return Err(EnableError::InUse);
            }
            // Firmware may leave the register open: then it is ours to close.
            let feature_control = rdmsr(FEATURE_CONTROL);
            if feature_control & LOCK == 0 {
                wrmsr(FEATURE_CONTROL, feature_control | VMXON_OUTSIDE_SMX | LOCK);
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
            set_cr4(new_cr4);
            if vmxon(region.base().0).is_err() {
                set_cr4(cr4);
                return Err(EnableError::InUse);
            }
            let (host_msrs, applied) = (HostMsrs::capture(), capabilities.mitigations.apply());
            Ok(Self { region, l1d_fill, applied, host_msrs })
        }
    }

    /// Switches VMX off.
    ///
    /// # Safety
    /// CPL 0 on the CPU that [`enable`](Self::enable) ran on.
    pub(crate) unsafe fn disable(&mut self) {
        // SAFETY: the caller's promise. A VMCS that is still tied to this CPU belongs to a virtual CPU that has not been
        // unbound, which keeps its frame for ever.
        unsafe {
            self.applied.undo();
            vmxoff();
            set_cr4(cr4() & !Cr4::VMXE.bits());
        }
    }

    /// Leaves the frame to the CPU for ever: it may still write to it.
    pub(crate) fn abandon(self) {
        core::mem::forget(self.region);
    }
}

/// A VMXON region or VMCS that no CPU has seen yet (SDM volume 3, 25.2 and 25.11.5).
pub(super) fn new_region<H: Host>(
    host: &H,
    capabilities: &VmxCapabilities,
) -> Result<Frames<H>, crate::host::OutOfMemory> {
    let region = Frames::allocate(host, 0)?;
    // SAFETY: the frame is ours.
    unsafe { region.as_ptr().cast::<u32>().write(capabilities.revision) };
    Ok(region)
}
