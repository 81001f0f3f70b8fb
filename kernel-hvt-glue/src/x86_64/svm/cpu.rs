//! SVM on one CPU: switched on and off.

use hvt_abi::x86_64::{Efer, msr};
use raw_cpuid::CpuIdReader;

use crate::{
    host::{Frames, Host, Hpa},
    hypervisor::EnableError,
    x86_64::{
        cpuid::native,
        mitigations::{Applied, Measures, Mitigations},
        privileged::{rdmsr, wrmsr},
    },
};

/// VM_HSAVE_PA (APM volume 2, 15.30.4): where VMRUN saves the host's state.
const VM_HSAVE_PA: u32 = 0xc001_0117;
/// IA32_XSS: what XSAVES saves and XRSTORS loads besides the components of XCR0.
pub(super) const XSS: u32 = 0xda0;
/// TSC_AUX: what RDPID and RDTSCP return.
pub(super) const TSC_AUX: u32 = 0xc000_0103;

/// A CPU on which EFER.SVME is set.
#[derive(Debug)]
pub(crate) struct SvmCpu<H: Host> {
    /// VMRUN's own save area; nobody else looks into it.
    host_save: Frames<H>,
    /// Where VMSAVE puts what VMRUN does not save.
    host_vmcb: Frames<H>,
    /// VM_HSAVE_PA as it was.
    previous_host_save: u64,
    applied: Applied,
    pub(super) host: HostMsrs,
    pub(super) measures: Measures,
}

/// MSRs that instructions reach which SVM cannot intercept: as the kernel had them when SVM was switched on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HostMsrs {
    pub(super) xss: u64,
    pub(super) tsc_aux: u64,
}

impl HostMsrs {
    /// Reads those that exist on the CPU; the others are 0. TSC_AUX comes with RDTSCP, which is intercepted,
    /// and counts there too: CPUID may hide RDPID, but cannot stop it.
    fn read(cpuid: &impl CpuIdReader, rdmsr: impl Fn(u32) -> u64) -> Self {
        let last = cpuid.cpuid1(0).eax;
        let has_xsaves = last >= 0xd && cpuid.cpuid2(0xd, 1).eax >> 3 & 1 == 1;
        let has_rdpid = last >= 7 && cpuid.cpuid2(7, 0).ecx >> 22 & 1 == 1;
        let has_rdtscp = cpuid.cpuid1(0x8000_0001).edx >> 27 & 1 == 1;
        Self {
            xss: if has_xsaves { rdmsr(XSS) } else { 0 },
            tsc_aux: if has_rdpid || has_rdtscp { rdmsr(TSC_AUX) } else { 0 },
        }
    }

    /// What entries and exits have to do about them.
    fn measures(&self) -> Measures {
        let mut measures = Measures::empty();
        measures.set(Measures::SWITCH_XSS, self.xss != 0);
        measures.set(Measures::SWITCH_TSC_AUX, self.tsc_aux != 0);
        measures
    }
}

impl<H: Host> SvmCpu<H> {
    /// Switches SVM on.
    ///
    /// # Safety
    /// CPL 0, SVM is supported, and the caller stays on this CPU.
    pub(crate) unsafe fn enable(host: &H, mitigations: &Mitigations) -> Result<Self, EnableError> {
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
            let host = HostMsrs::read(&native, |register| rdmsr(register));
            Ok(Self {
                host_save,
                host_vmcb,
                previous_host_save,
                applied: mitigations.apply(),
                host,
                measures: mitigations.measures | host.measures(),
            })
        }
    }

    /// Switches SVM off and restores what was there before.
    ///
    /// # Safety
    /// CPL 0 on the CPU that [`enable`](Self::enable) ran on.
    pub(crate) unsafe fn disable(&mut self) {
        // SAFETY: the caller's promise; the values were there before.
        unsafe {
            self.applied.undo();
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

#[cfg(test)]
mod tests {
    use raw_cpuid::CpuIdResult;

    use super::*;

    /// A CPU with XSAVES or RDPID, whose kernel has a value in every register.
    fn read(xsaves: bool, rdpid: bool) -> HostMsrs {
        let cpuid = move |leaf, subleaf| {
            let (eax, ecx) = match (leaf, subleaf) {
                (0, _) => (0xd, 0),
                (7, 0) => (0, u32::from(rdpid) << 22),
                (0xd, 1) => (u32::from(xsaves) << 3, 0),
                _ => (0, 0),
            };
            CpuIdResult { eax, ebx: 0, ecx, edx: 0 }
        };
        HostMsrs::read(&cpuid, |register| match register {
            XSS if xsaves => 1 << 11,
            TSC_AUX if rdpid => 3,
            _ => panic!("{register:#x} was not announced"),
        })
    }

    #[test]
    fn registers_that_a_guest_could_reach_are_switched_unless_they_are_0() {
        let both = read(true, true);
        assert_eq!(both, HostMsrs { xss: 1 << 11, tsc_aux: 3 });
        assert_eq!(both.measures(), Measures::SWITCH_XSS | Measures::SWITCH_TSC_AUX);
        assert_eq!(read(true, false).measures(), Measures::SWITCH_XSS);
        assert_eq!(read(false, true).measures(), Measures::SWITCH_TSC_AUX);
        assert_eq!(HostMsrs::default().measures(), Measures::empty());
        let old = |leaf, _| CpuIdResult { eax: 1, ebx: !0, ecx: !0, edx: if leaf >= 0x8000_0000_u32 { 0 } else { !0 } };
        assert_eq!(HostMsrs::read(&old, |_| unreachable!()), HostMsrs::default());
    }
}
