//! Mitigations of CPU vulnerabilities through which a guest could read foreign data.
//!
//! The crate's documentation has the table. The mitigations are selected once, from the CPU's
//! reports. The assembly of entry and exit performs most of them, as selected by [`Measures`].

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use bitflags::bitflags;
use hvt_abi::x86_64::msr;
use raw_cpuid::{CpuIdReader, CpuIdResult};

use super::privileged::{rdmsr, wrmsr};

/// IA32_SPEC_CTRL (SDM volume 4, table 2-2).
const SPEC_CTRL: u32 = 0x48;
/// IA32_PRED_CMD (APM volume 2, 3.2.9).
pub(crate) const PRED_CMD: u32 = 0x49;
/// IA32_PRED_CMD.IBPB.
pub(crate) const IBPB: u64 = 1 << 0;
/// IA32_ARCH_CAPABILITIES.
const ARCH_CAPABILITIES: u32 = 0x10a;
/// IA32_FLUSH_CMD.
pub(crate) const FLUSH_CMD: u32 = 0x10b;
/// IA32_FLUSH_CMD.L1D_FLUSH.
pub(crate) const L1D_FLUSH: u64 = 1 << 0;
/// BP_CFG of AMD's family 1Ah.
const BP_CFG: u32 = 0xc001_102e;

/// IA32_SPEC_CTRL.IBRS; stays set if IA32_ARCH_CAPABILITIES.IBRS_ALL is set.
const IBRS: u64 = 1 << 0;
/// IA32_SPEC_CTRL.BHI_DIS_S.
const BHI_DIS_S: u64 = 1 << 10;
/// EFER.AIBRSE: automatic IBRS.
const AUTOMATIC_IBRS: u64 = 1 << 21;
/// BP_CFG.BpSpecReduce.
const BP_SPEC_REDUCE: u64 = 1 << 4;

/// Number of bytes that evict all other data from an L1 data cache.
pub(crate) const L1D_FILL_SIZE: usize = 64 << 10;
/// log2 of the number of frames with [`L1D_FILL_SIZE`] bytes.
pub(crate) const L1D_FILL_ORDER: u32 = 4;

bitflags! {
    /// Mitigations performed at entries, exits and unbinding.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Measures: u32 {
        /// Entry: IA32_FLUSH_CMD.L1D_FLUSH.
        const FLUSH_L1D = 1 << 0;
        /// Entry: reads [`L1D_FILL_SIZE`] bytes, on CPUs without IA32_FLUSH_CMD.
        const FILL_L1D = 1 << 1;
        /// Entry: VERW as the last instruction before loads of the guest's registers.
        const CLEAR_BUFFERS = 1 << 2;
        /// Entry: a division, which replaces the kernel's operands in the divider.
        const CLEAR_DIVIDER = 1 << 3;
        /// Exit: IBPB.
        const BARRIER_AT_EXIT = 1 << 4;
        /// Exit: a sequence of branches that fills the branch history.
        const CLEAR_HISTORY = 1 << 5;
        /// IBPB when the virtual CPU leaves the CPU, before its monitor runs.
        const BARRIER_WHEN_UNBOUND = 1 << 6;
        /// SVM: the kernel's IA32_XSS is not 0, and the guest's is.
        const SWITCH_XSS = 1 << 7;
        /// SVM: the kernel's TSC_AUX is not 0, and the guest's is.
        const SWITCH_TSC_AUX = 1 << 8;
    }
}

impl Measures {
    /// Measures that the assembly of an entry performs.
    pub(crate) const AT_ENTRY: Self = Self::FLUSH_L1D
        .union(Self::FILL_L1D)
        .union(Self::CLEAR_DIVIDER)
        .union(Self::SWITCH_XSS)
        .union(Self::SWITCH_TSC_AUX);
    /// Measures that the assembly of an exit performs.
    pub(crate) const AT_EXIT: Self =
        Self::BARRIER_AT_EXIT.union(Self::CLEAR_HISTORY).union(Self::SWITCH_XSS).union(Self::SWITCH_TSC_AUX);
}

/// All mitigations for a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mitigations {
    /// At entries, exits and unbinding.
    pub(crate) measures: Measures,
    /// The CPU has IBPB, which is used between guests of different VMs.
    pub(crate) barrier: bool,
    /// Executable pages of second-level tables are limited to 4 KiB.
    pub(crate) small_code: bool,
    /// Bits of IA32_SPEC_CTRL that are set while the extension is enabled.
    spec_ctrl: u64,
    /// EFER.AIBRSE is set while the extension is enabled.
    automatic_ibrs: bool,
    /// BP_CFG.BpSpecReduce is set while the extension is enabled.
    reduce_speculation: bool,
}

impl Mitigations {
    /// No mitigations.
    #[cfg(test)]
    pub(crate) const NONE: Self = Self {
        measures: Measures::empty(),
        barrier: false,
        small_code: false,
        spec_ctrl: 0,
        automatic_ibrs: false,
        reduce_speculation: false,
    };
}

/// Returns a bit of a word.
const fn bit(word: u64, number: u32) -> bool {
    word >> number & 1 == 1
}

/// Returns a CPUID leaf, or zeros if the CPU does not have it.
fn leaf(cpuid: &impl CpuIdReader, leaf: u32, subleaf: u32) -> CpuIdResult {
    let last = cpuid.cpuid1(leaf & 0x8000_0000).eax;
    if leaf <= last { cpuid.cpuid2(leaf, subleaf) } else { CpuIdResult { eax: 0, ebx: 0, ecx: 0, edx: 0 } }
}

impl Mitigations {
    /// Selects the mitigations for a CPU with SVM.
    pub(crate) fn amd(cpuid: &impl CpuIdReader) -> Self {
        let version = leaf(cpuid, 1, 0).eax;
        let family = (version >> 8 & 0xf) + (version >> 20 & 0xff);
        let model = version >> 4 & 0xf | version >> 12 & 0xf0;
        let sizes = u64::from(leaf(cpuid, 0x8000_0008, 0).ebx);
        let extended = leaf(cpuid, 0x8000_0021, 0);
        let (more, transient) = (u64::from(extended.eax), u64::from(extended.ecx));

        let barrier = bit(sizes, 12);
        let automatic_ibrs = bit(more, 8);
        // BTC_NO. Hygon's family 18h is equivalent to AMD's 17h.
        let confuses_branch_types = matches!(family, 0x17 | 0x18) && !bit(sizes, 29);
        // SRSO_NO, and SRSO_MSR_FIX: BP_CFG.BpSpecReduce mitigates. CPUs before family 17h are not
        // vulnerable.
        let reduce_speculation = !bit(more, 29) && bit(more, 31);
        let overflows_return_stack = family >= 0x17 && !bit(more, 29) && !reduce_speculation;
        let at_exit = !automatic_ibrs || confuses_branch_types || overflows_return_stack;

        let mut measures = Measures::empty();
        measures.set(Measures::BARRIER_AT_EXIT, barrier && at_exit);
        measures.set(Measures::BARRIER_WHEN_UNBOUND, barrier && !at_exit);
        // VERW_CLEAR, without TSA_SQ_NO and TSA_L1_NO.
        measures.set(Measures::CLEAR_BUFFERS, bit(more, 5) && !(bit(transient, 1) && bit(transient, 2)));
        // No CPUID bit reports the divider vulnerability of the first generation of family 17h.
        measures.set(Measures::CLEAR_DIVIDER, family == 0x17 && matches!(model, 0..0x30 | 0x50..0x60));
        Self { measures, barrier, small_code: false, spec_ctrl: 0, automatic_ibrs, reduce_speculation }
    }

    /// Selects the mitigations for a CPU with VMX. `rdmsr` is called only for a register that CPUID
    /// reports.
    pub(crate) fn intel(cpuid: &impl CpuIdReader, rdmsr: impl Fn(u32) -> u64) -> Self {
        let features = leaf(cpuid, 7, 0);
        let edx = u64::from(features.edx);
        let immune = if bit(edx, 29) { rdmsr(ARCH_CAPABILITIES) } else { 0 };
        let barrier = bit(edx, 26);

        let mut measures = Measures::empty();
        // Neither RDCL_NO nor SKIP_L1DFL_VMENTRY.
        if !bit(immune, 0) && !bit(immune, 3) {
            measures.set(Measures::FLUSH_L1D, bit(edx, 28));
            measures.set(Measures::FILL_L1D, !bit(edx, 28));
        }
        let has_tsx = bit(features.ebx.into(), 11);
        let leaks = [
            // MDS_NO. VERW is effective if microcode has MD_CLEAR, and harmless otherwise.
            !bit(immune, 5),
            // TAA_NO
            has_tsx && !bit(immune, 8),
            // FB_CLEAR, without all of SBDR_SSDP_NO, FBSDP_NO and PSDP_NO.
            bit(immune, 17) && immune >> 13 & 7 != 7,
            // RFDS_CLEAR, without RFDS_NO.
            bit(immune, 28) && !bit(immune, 27),
        ];
        measures.set(Measures::CLEAR_BUFFERS, leaks.contains(&true));
        // IBRS_ALL
        let enhanced_ibrs = bit(immune, 1);
        let mut spec_ctrl = if enhanced_ibrs { IBRS } else { 0 };
        // Not BHI_NO. Only predictors that IBRS does not restrict are trained through the branch
        // history.
        if enhanced_ibrs && !bit(immune, 20) {
            let has_control = features.eax >= 2 && bit(leaf(cpuid, 7, 2).edx.into(), 4);
            if has_control {
                spec_ctrl |= BHI_DIS_S;
            }
            measures.set(Measures::CLEAR_HISTORY, !has_control);
        }
        measures.set(Measures::BARRIER_AT_EXIT, barrier && !enhanced_ibrs);
        measures.set(Measures::BARRIER_WHEN_UNBOUND, barrier && enhanced_ibrs);
        // IF_PSCHANGE_MC_NO
        let small_code = !bit(immune, 6);
        Self { measures, barrier, small_code, spec_ctrl, automatic_ibrs: false, reduce_speculation: false }
    }

    /// Sets the bits that stay set while guests may run on this CPU.
    ///
    /// # Safety
    /// Must run at CPL 0, on a CPU for which the mitigations were selected.
    pub(crate) unsafe fn apply(&self) -> Applied {
        let wanted = [
            (SPEC_CTRL, self.spec_ctrl),
            (msr::EFER, if self.automatic_ibrs { AUTOMATIC_IBRS } else { 0 }),
            (BP_CFG, if self.reduce_speculation { BP_SPEC_REDUCE } else { 0 }),
        ];
        Applied(wanted.map(|(register, bits)| {
            if bits == 0 {
                return (register, 0);
            }
            // SAFETY: guaranteed by the caller: a bit is set only if CPUID reports it. These bits
            // restrict speculation and have no other effect.
            unsafe {
                let before = rdmsr(register);
                wrmsr(register, before | bits);
                (register, bits & !before)
            }
        }))
    }
}

/// Registers of a CPU, with the bits that [`Mitigations::apply`] has changed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Applied([(u32, u64); 3]);

impl Applied {
    /// Clears the bits.
    ///
    /// # Safety
    /// Must run at CPL 0 on the CPU of [`Mitigations::apply`].
    pub(crate) unsafe fn undo(&self) {
        for (register, bits) in self.0.into_iter().filter(|&(_, bits)| bits != 0) {
            // SAFETY: guaranteed by the caller; the bits were clear before.
            unsafe { wrmsr(register, rdmsr(register) & !bits) };
        }
    }
}

/// Flushes the branch predictors.
///
/// # Safety
/// Must run at CPL 0, on a CPU whose CPUID reports IBPB.
pub(crate) unsafe fn prediction_barrier() {
    // SAFETY: guaranteed by the caller.
    unsafe { wrmsr(PRED_CMD, IBPB) };
}

/// Assembly that fills the return stack buffer with addresses that stop speculation, so that a
/// `ret` of the kernel does not speculate to an address chosen by the guest (SDM volume 3, "RSB
/// filling"). RSP is unchanged afterwards.
macro_rules! fill_return_stack {
    () => {
        ".rept 32\n call 9f\n int3\n 9:\n .endr\n add rsp, 32 * 8\n lfence\n"
    };
}
pub(crate) use fill_return_stack;

/// Assembly that writes IBPB. Clobbers RAX, RCX, RDX.
macro_rules! barrier_assembly {
    () => {
        "mov ecx, {pred_cmd}\n mov eax, {ibpb}\n xor edx, edx\n wrmsr\n"
    };
}
pub(crate) use barrier_assembly;

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: CpuIdResult = CpuIdResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };

    /// Selects the mitigations for an AMD CPU: its version, EBX of leaf 8000_0008h, EAX and ECX of
    /// leaf 8000_0021h.
    fn amd(version: u32, sizes: u32, more: u32, transient: u32) -> Mitigations {
        Mitigations::amd(&move |leaf, _| match leaf {
            0 => CpuIdResult { eax: 0x10, ..ZERO },
            1 => CpuIdResult { eax: version, ..ZERO },
            0x8000_0000 => CpuIdResult { eax: 0x8000_0021, ..ZERO },
            0x8000_0008 => CpuIdResult { ebx: sizes, ..ZERO },
            0x8000_0021 => CpuIdResult { eax: more, ecx: transient, ..ZERO },
            _ => panic!("{leaf:#x} is not looked at"),
        })
    }

    const BARRIER: u32 = 1 << 12;
    const BTC_NO: u32 = 1 << 29;
    const AUTO_IBRS: u32 = 1 << 8;
    const SRSO_NO: u32 = 1 << 29;
    const SRSO_MSR_FIX: u32 = 1 << 31;

    #[test]
    fn amds_branch_predictors_are_emptied_where_the_cpu_does_not_keep_guests_out() {
        const ZEN1: u32 = 0x80_0f12;
        const ZEN3: u32 = 0xa2_0f10;
        const ZEN5: u32 = 0xb0_0f21;
        let zen1 = amd(ZEN1, BARRIER, 0, 0);
        assert_eq!(zen1.measures, Measures::BARRIER_AT_EXIT | Measures::CLEAR_DIVIDER);
        assert!(zen1.barrier && !zen1.automatic_ibrs);
        assert_eq!(amd(ZEN1, 0, 0, 0).measures, Measures::CLEAR_DIVIDER, "old microcode");
        // Automatic IBRS alone is not sufficient: the return stack overflows.
        assert_eq!(amd(ZEN3, BARRIER | BTC_NO, AUTO_IBRS, 0).measures, Measures::BARRIER_AT_EXIT);
        let reduced = amd(ZEN5, BARRIER | BTC_NO, AUTO_IBRS | SRSO_MSR_FIX, 0);
        assert_eq!(reduced.measures, Measures::BARRIER_WHEN_UNBOUND);
        assert!(reduced.automatic_ibrs && reduced.reduce_speculation);
        let immune = amd(ZEN5, BARRIER | BTC_NO, AUTO_IBRS | SRSO_NO | SRSO_MSR_FIX, 0);
        assert_eq!(immune.measures, Measures::BARRIER_WHEN_UNBOUND);
        assert!(!immune.reduce_speculation);
        // Zen 2 confuses branch types, regardless of its other bits.
        let zen2 = amd(0x83_0f10, BARRIER, AUTO_IBRS | SRSO_NO, 0);
        assert_eq!(zen2.measures, Measures::BARRIER_AT_EXIT);
    }

    #[test]
    fn amds_buffers_are_cleared_where_verw_does_that() {
        const VERW_CLEAR: u32 = 1 << 5;
        let measures = |more, transient| amd(0xa2_0f10, 0, more, transient).measures;
        assert_eq!(measures(VERW_CLEAR, 0), Measures::CLEAR_BUFFERS);
        assert_eq!(measures(VERW_CLEAR, 0b010), Measures::CLEAR_BUFFERS, "TSA_SQ_NO only");
        assert_eq!(measures(VERW_CLEAR, 0b110), Measures::empty());
        assert_eq!(measures(0, 0), Measures::empty());
    }

    /// Selects the mitigations for an Intel CPU: EBX and EDX of leaf 7, EDX of subleaf 2, and
    /// IA32_ARCH_CAPABILITIES if EDX reports it.
    fn intel(ebx: u32, edx: u32, controls: u32, capabilities: u64) -> Mitigations {
        let cpuid = move |leaf, subleaf| match (leaf, subleaf) {
            (0, _) => CpuIdResult { eax: 7, ..ZERO },
            (7, 0) => CpuIdResult { eax: 2, ebx, edx, ecx: 0 },
            (7, 2) => CpuIdResult { edx: controls, ..ZERO },
            _ => panic!("{leaf:#x} is not looked at"),
        };
        Mitigations::intel(&cpuid, |register| {
            assert_eq!((register, edx >> 29 & 1), (ARCH_CAPABILITIES, 1), "not announced");
            capabilities
        })
    }

    const IBRS_IBPB: u32 = 1 << 26;
    const FLUSH: u32 = 1 << 28;
    const HAS_CAPABILITIES: u32 = 1 << 29;
    const RDCL_NO: u64 = 1 << 0;
    const IBRS_ALL: u64 = 1 << 1;
    const MDS_NO: u64 = 1 << 5;
    const TAA_NO: u64 = 1 << 8;
    const BHI_NO: u64 = 1 << 20;
    /// A CPU whose only vulnerabilities are the ones named in a test.
    const SAFE: u64 = RDCL_NO | IBRS_ALL | MDS_NO | TAA_NO | BHI_NO;

    #[test]
    fn an_intel_cpu_that_reports_nothing_has_every_old_weakness() {
        let skylake = intel(1 << 11, IBRS_IBPB | FLUSH, 0, 0);
        let expected = Measures::FLUSH_L1D | Measures::CLEAR_BUFFERS | Measures::BARRIER_AT_EXIT;
        assert_eq!((skylake.measures, skylake.spec_ctrl), (expected, 0));
        assert_eq!(intel(0, 0, 0, 0).measures, Measures::FILL_L1D | Measures::CLEAR_BUFFERS, "old microcode");
        let oldest = Mitigations::intel(&|leaf, _| CpuIdResult { eax: 0, edx: leaf, ..ZERO }, |_| unreachable!());
        assert_eq!(oldest.measures, Measures::FILL_L1D | Measures::CLEAR_BUFFERS, "no leaf 7");
    }

    #[test]
    fn intels_weaknesses_are_those_that_the_cpu_does_not_deny() {
        let measures = |capabilities| intel(1 << 11, IBRS_IBPB | FLUSH | HAS_CAPABILITIES, 0, capabilities).measures;
        let base = Measures::BARRIER_WHEN_UNBOUND;
        assert_eq!(measures(SAFE), base);
        assert_eq!(measures(SAFE & !RDCL_NO), base | Measures::FLUSH_L1D);
        assert_eq!(measures(SAFE & !RDCL_NO | 1 << 3), base, "SKIP_L1DFL_VMENTRY");
        assert_eq!(measures(SAFE & !MDS_NO), base | Measures::CLEAR_BUFFERS);
        assert_eq!(measures(SAFE & !TAA_NO), base | Measures::CLEAR_BUFFERS);
        assert_eq!(measures(SAFE | 1 << 17), base | Measures::CLEAR_BUFFERS, "FB_CLEAR");
        assert_eq!(measures(SAFE | 1 << 17 | 7 << 13), base, "FB_CLEAR and not affected");
        assert_eq!(measures(SAFE | 1 << 28), base | Measures::CLEAR_BUFFERS, "RFDS_CLEAR");
        assert_eq!(measures(SAFE | 3 << 27), base, "RFDS_NO");
        assert_eq!(measures(SAFE & !IBRS_ALL), Measures::BARRIER_AT_EXIT);
        assert_eq!(measures(SAFE & !BHI_NO), base | Measures::CLEAR_HISTORY);
        let stops = |capabilities| intel(0, HAS_CAPABILITIES, 0, capabilities).small_code;
        assert!(stops(SAFE) && !stops(SAFE | 1 << 6), "IF_PSCHANGE_MC_NO");
        let no_tsx = intel(0, HAS_CAPABILITIES, 0, SAFE & !TAA_NO);
        assert_eq!(no_tsx.measures, Measures::empty());
    }

    #[test]
    fn controls_that_exist_do_what_assembly_would() {
        let safe = intel(0, IBRS_IBPB | HAS_CAPABILITIES, 1 << 4, SAFE);
        assert_eq!(safe.spec_ctrl, IBRS);
        let history = intel(0, IBRS_IBPB | HAS_CAPABILITIES, 1 << 4, SAFE & !BHI_NO);
        assert_eq!((history.spec_ctrl, history.measures), (IBRS | BHI_DIS_S, Measures::BARRIER_WHEN_UNBOUND));
    }
}
