//! SVM on one CPU: switched on and off.

use hvt_abi::x86_64::{Efer, msr};

use crate::{
    host::{Frames, Host, Hpa},
    hypervisor::EnableError,
    x86_64::{
        privileged::{rdmsr, wrmsr},
        tag::Tags,
    },
};

/// VM_HSAVE_PA (APM volume 2, 15.30.4): where VMRUN saves the host's state.
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// A CPU on which EFER.SVME is set.
#[derive(Debug)]
pub(crate) struct SvmCpu<H: Host> {
    /// VMRUN's own save area; nobody else looks into it.
    host_save: Frames<H>,
    /// Where VMSAVE puts what VMRUN does not save.
    host_vmcb: Frames<H>,
    /// VM_HSAVE_PA as it was.
    previous_host_save: u64,
    pub(crate) tags: Tags,
}

impl<H: Host> SvmCpu<H> {
    /// Switches SVM on.
    ///
    /// # Safety
    /// CPL 0, SVM is supported, and the caller stays on this CPU.
    pub(crate) unsafe fn enable(host: &H, asids: u32) -> Result<Self, EnableError> {
        let (host_save, host_vmcb) = (Frames::allocate(host, 0)?, Frames::allocate(host, 0)?);
        // SAFETY: the caller's promise; both registers exist where SVM does.
        unsafe {
            let efer = rdmsr(msr::EFER);
            if efer & Efer::SVME.bits() != 0 {
                return Err(EnableError::InUse);
            }
            wrmsr(msr::EFER, efer | Efer::SVME.bits());
            let previous_host_save = rdmsr(VM_HSAVE_PA);
            wrmsr(VM_HSAVE_PA, host_save.base().0);
            Ok(Self { host_save, host_vmcb, previous_host_save, tags: Tags::new(asids) })
        }
    }

    /// Switches SVM off and restores what was there before.
    ///
    /// # Safety
    /// CPL 0 on the CPU that [`enable`](Self::enable) ran on.
    pub(crate) unsafe fn disable(&mut self) {
        // SAFETY: the caller's promise; the values were there before.
        unsafe {
            wrmsr(VM_HSAVE_PA, self.previous_host_save);
            wrmsr(msr::EFER, rdmsr(msr::EFER) & !Efer::SVME.bits());
        }
    }

    /// Where the host's VMSAVE state goes.
    pub(crate) fn host_vmcb(&self) -> Hpa {
        self.host_vmcb.base()
    }

    /// Leaves the frames to the CPU for ever: it may still write to them.
    pub(crate) fn abandon(self) {
        core::mem::forget((self.host_save, self.host_vmcb));
    }
}
