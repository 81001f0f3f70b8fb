//! Per-CPU state: frames for the extension, and kernel state that the extension does not save.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use hvt_abi::x86_64::msr;
use raw_cpuid::CpuIdReader;
use x86::msr::{IA32_SYSENTER_CS, IA32_SYSENTER_EIP, IA32_SYSENTER_ESP, IA32_TSC_AUX};

use super::{
    cpuid::native,
    error::EnableError,
    mitigations::{Applied, L1D_FILL_ORDER, Measures, Mitigations},
    privileged::rdmsr,
    tag::Tags,
};
use crate::host::{FRAME_SIZE, Frames, Host, Hpa};

/// IA32_XSS: components that XSAVES and XRSTORS handle in addition to XCR0's.
pub(crate) const XSS: u32 = 0xda0;

/// State of a CPU on which the extension is enabled.
#[derive(Debug)]
pub struct CpuState<H: Host> {
    /// Two frames for the extension; the first one belongs to the CPU.
    area: Frames<H>,
    /// FPU area of the thread that runs a guest on this CPU.
    pub(crate) fpu: Frames<H>,
    /// Memory for the reads of [`Measures::FILL_L1D`].
    pub(crate) l1d_fill: Option<Frames<H>>,
    /// XCR0 of the kernel.
    pub(crate) xcr0: u64,
    pub(crate) tags: Tags,
    pub(crate) msrs: HostMsrs,
    /// Mitigations at entries and exits, for the CPU and for the extension.
    pub(crate) measures: Measures,
    pub(crate) applied: Applied,
    /// AMD: previous value of VM_HSAVE_PA.
    pub(crate) previous_host_save: u64,
}

impl<H: Host> CpuState<H> {
    /// Creates the state of a CPU without enabling the extension.
    ///
    /// # Safety
    /// Must run at CPL 0, and the caller must stay on this CPU.
    pub(crate) unsafe fn new(host: &H, xcr0: u64, tags: u32, mitigations: &Mitigations) -> Result<Self, EnableError> {
        let has_to_fill = mitigations.measures.contains(Measures::FILL_L1D);
        Ok(Self {
            area: Frames::allocate(host, 1)?,
            fpu: Frames::allocate(host, 0)?,
            l1d_fill: has_to_fill.then(|| Frames::allocate(host, L1D_FILL_ORDER)).transpose()?,
            xcr0,
            tags: Tags::new(tags),
            // SAFETY: guaranteed by the caller; only existing registers are read.
            msrs: HostMsrs::read(&native, |register| unsafe { rdmsr(register) }),
            measures: mitigations.measures,
            applied: Applied::default(),
            previous_host_save: 0,
        })
    }

    /// Returns the CPU's frame: the VMXON region, or the area in which VMRUN saves the host's
    /// state.
    pub(crate) fn own_frame(&self) -> Hpa {
        self.area.base()
    }

    /// Returns the kernel's address of the CPU's frame.
    pub(crate) fn own_frame_ptr(&self) -> *mut u8 {
        self.area.as_ptr()
    }

    /// Returns the frame after the CPU's frame, which AMD's CPUs use for VMSAVE.
    pub(crate) fn vmsave_frame(&self) -> Hpa {
        self.area.base().add(FRAME_SIZE)
    }

    /// Leaks the frames, because the CPU may still write to them.
    pub(crate) fn abandon(self) {
        core::mem::forget(self.area);
    }
}

/// MSRs that a kernel sets once on each CPU, with their values when the extension was enabled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostMsrs {
    pub(crate) efer: u64,
    pub(crate) pat: u64,
    pub(crate) sysenter_cs: u32,
    pub(crate) sysenter_esp: u64,
    pub(crate) sysenter_eip: u64,
    /// 0 if the CPU does not have the MSR.
    pub(crate) xss: u64,
    /// 0 if the CPU does not have the MSR.
    pub(crate) tsc_aux: u64,
}

impl HostMsrs {
    /// Reads the MSRs that exist on the CPU. TSC_AUX exists with RDTSCP or RDPID. RDTSCP is
    /// intercepted, but counts as well: if CPUID hides RDPID, a guest can still execute it.
    fn read(cpuid: &impl CpuIdReader, rdmsr: impl Fn(u32) -> u64) -> Self {
        let last = cpuid.cpuid1(0).eax;
        let has_xsaves = last >= 0xd && cpuid.cpuid2(0xd, 1).eax >> 3 & 1 == 1;
        let has_rdpid = last >= 7 && cpuid.cpuid2(7, 0).ecx >> 22 & 1 == 1;
        let has_rdtscp = cpuid.cpuid1(0x8000_0001).edx >> 27 & 1 == 1;
        Self {
            efer: rdmsr(msr::EFER),
            pat: rdmsr(msr::PAT),
            sysenter_cs: rdmsr(IA32_SYSENTER_CS) as u32,
            sysenter_esp: rdmsr(IA32_SYSENTER_ESP),
            sysenter_eip: rdmsr(IA32_SYSENTER_EIP),
            xss: if has_xsaves { rdmsr(XSS) } else { 0 },
            tsc_aux: if has_rdpid || has_rdtscp { rdmsr(IA32_TSC_AUX) } else { 0 },
        }
    }

    /// Returns the switches needed for MSRs that instructions can reach although SVM cannot
    /// intercept them.
    pub(crate) fn measures(&self) -> Measures {
        let mut measures = Measures::empty();
        measures.set(Measures::SWITCH_XSS, self.xss != 0);
        measures.set(Measures::SWITCH_TSC_AUX, self.tsc_aux != 0);
        measures
    }
}

#[cfg(test)]
mod tests {
    use raw_cpuid::CpuIdResult;

    use super::*;

    /// Reads the MSRs of a CPU with XSAVES or RDPID, whose kernel has a value in every register.
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
            IA32_TSC_AUX if rdpid => 3,
            msr::EFER | msr::PAT | IA32_SYSENTER_CS | IA32_SYSENTER_ESP | IA32_SYSENTER_EIP => 1,
            _ => panic!("{register:#x} was not announced"),
        })
    }

    #[test]
    fn registers_that_a_guest_could_reach_are_switched_unless_they_are_0() {
        let both = read(true, true);
        assert_eq!((both.xss, both.tsc_aux), (1 << 11, 3));
        assert_eq!(both.measures(), Measures::SWITCH_XSS | Measures::SWITCH_TSC_AUX);
        assert_eq!(read(true, false).measures(), Measures::SWITCH_XSS);
        assert_eq!(read(false, true).measures(), Measures::SWITCH_TSC_AUX);
        assert_eq!(HostMsrs::default().measures(), Measures::empty());
        let old = |leaf, _| CpuIdResult { eax: 1, ebx: !0, ecx: !0, edx: if leaf >= 0x8000_0000_u32 { 0 } else { !0 } };
        assert_eq!(HostMsrs::read(&old, |register| u64::from(register == XSS)).measures(), Measures::empty());
    }
}
