//! Removes from a virtual machine what KVM offers beyond CPUID: MSRs, performance counters, KVM's own hypercalls, and
//! quirks that undo a denial.
//!
//! Without these calls a guest could read hundreds of MSRs, and make KVM write clocks and steal time into guest memory:
//! KVM serves the MSRs of its paravirtual interfaces whether or not CPUID shows them.
//!
//! Older kernels lack some of these calls. A kernel without MSR filters (before 5.10) is named in a warning, once a
//! process; the other omissions are logged as information, because they leave less to a guest.

#![expect(unsafe_code, reason = "system calls of KVM, and memory that the kernel and the guest write")]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Once;

use hvt_abi::x86_64::msr;
use kvm_bindings::{
    KVM_CAP_DISABLE_QUIRKS2, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_PMU_CAPABILITY, KVM_CAP_XEN_HVM,
    KVM_PMU_CAP_DISABLE, KVM_X86_QUIRK_FIX_HYPERCALL_INSN, KVM_X86_QUIRK_LAPIC_MMIO_HOLE,
    KVM_X86_QUIRK_LINT0_REENABLED, KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT, KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS,
    KVM_X86_QUIRK_OUT_7E_INC_RIP, KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL, KVMIO, kvm_enable_cap, kvm_xen_hvm_config,
};
use kvm_ioctls::{Cap, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};

/// Quirks that are disabled (Linux, Documentation/virt/kvm/api.rst, `KVM_CAP_DISABLE_QUIRKS2`).
///
/// Some quirks stay on. CD_NW_CLEARED and IGNORE_GUEST_PAT keep a guest from turning caches off, which slows down its
/// neighbours. SLOT_ZAP_ALL concerns memory slots that are removed, and STUFF_FEATURE_MSRS the values of MSRs that the
/// filter denies.
const QUIRKS_OFF: u32 =
    // KVM replaces the other vendor's hypercall instruction in guest memory. Disabled: the
    // instruction raises #UD.
    KVM_X86_QUIRK_FIX_HYPERCALL_INSN
    // MONITOR and MWAIT do nothing. Disabled: they raise #UD, because CPUID does not show MONITOR.
    | KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS
    // A write of IA32_MISC_ENABLE changes CPUID.
    | KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT
    // RIP points behind an `out` to port 7eh, so that a report names the wrong instruction.
    | KVM_X86_QUIRK_OUT_7E_INC_RIP
    // Both make a disabled APIC visible, although the guest has none.
    | KVM_X86_QUIRK_LINT0_REENABLED
    | KVM_X86_QUIRK_LAPIC_MMIO_HOLE;

/// Bytes of the bitmap of one register: the kernel reads whole words.
const BITMAP_LEN: usize = size_of::<u64>();

/// Disables the performance counters before the first vCPU is created.
///
/// Without this, `rdpmc` works on AMD even though CPUID shows no counters.
pub(in super::super) fn disable_counters(vm: &VmFd) {
    let disable = capability(KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
    if let Err(error) = vm.enable_cap(&disable) {
        // Kernels before 5.18, and kernels whose module parameter disables the counters anyway.
        log::debug!("kvm: performance counters cannot be disabled: {error}");
    }
}

/// Denies everything else. The vCPU has not run yet.
///
/// The filter takes a grace period of SRCU, which is short only if 25 microseconds have passed since the last one:
/// neither right after the virtual machine was created, nor right after its memory was set.
///
/// # Errors
///
/// Returns the error of a call that KVM reports as supported.
pub(in super::super) fn restrict(vm: &VmFd, vcpu: &VcpuFd) -> io::Result<()> {
    if let Err(error) = vcpu.enable_cap(&capability(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1)) {
        log::info!(
            "kvm: this kernel serves hypercalls of KVM that CPUID does not show (Linux 5.10 refuses them): {error}"
        );
    }
    let quirks = u32::try_from(vm.check_extension_raw(KVM_CAP_DISABLE_QUIRKS2.into())).unwrap_or(0) & QUIRKS_OFF;
    if quirks != 0 {
        vm.enable_cap(&capability(KVM_CAP_DISABLE_QUIRKS2, quirks))?;
    }
    if !vm.check_extension(Cap::X86MsrFilter) {
        static MISSING: Once = Once::new();
        MISSING.call_once(|| {
            log::warn!(
                "kvm: this kernel has no MSR filter: guests can read MSRs, and enable KVM's paravirtual clock and steal \
                 time: use Linux 5.10 or later"
            );
        });
        return Ok(());
    }
    filter_msrs(vm)?;
    intercept_hypercalls(vm);
    Ok(())
}

/// Lets only the registers of [`msr::is_allowed`] through; KVM raises #GP for all others.
///
/// KVM does not apply a filter to the registers of the x2APIC (800h to 8ffh). They raise #GP without one, because there
/// is no APIC in the kernel. Instructions that read an MSR implicitly (SYSCALL, SYSENTER, RDTSCP) read zeros.
fn filter_msrs(vm: &VmFd) -> io::Result<()> {
    const ONE: [u8; BITMAP_LEN] = [1, 0, 0, 0, 0, 0, 0, 0];
    let ranges = msr::OWN.into_iter().chain(msr::EMULATED).map(|base| MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base,
        msr_count: 1,
        bitmap: &ONE,
    });
    let ranges: Vec<_> = ranges.collect();
    Ok(vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)?)
}

/// Makes `vmcall` and `vmmcall` exit, with `KVM_EXIT_XEN`, instead of reaching KVM's own hypercalls.
///
/// KVM has no switch for its hypercalls. Interception for guests of Xen is the one means to see the instruction, if the
/// kernel has it (Linux 5.12 with `CONFIG_KVM_XEN`). Without it a guest still reaches `KVM_HC_CLOCK_PAIRING`, which
/// writes the host's time to an address that the guest names; all others return an error.
fn intercept_hypercalls(vm: &VmFd) {
    /// `KVM_XEN_HVM_CONFIG` (Linux, Documentation/virt/kvm/api.rst, 4.28).
    const KVM_XEN_HVM_CONFIG: libc::Ioctl = libc::_IOW::<kvm_xen_hvm_config>(KVMIO, 0x7a);
    /// The MSR that fills a page with hypercall instructions. KVM enables Xen's interface only if there is one; the
    /// filter denies it to the guest.
    const HYPERCALL_PAGE: u32 = 0x4000_0000;
    const { assert!(!msr::is_allowed(HYPERCALL_PAGE)) };
    let offered = u32::try_from(vm.check_extension_raw(KVM_CAP_XEN_HVM.into())).unwrap_or(0);
    let config = kvm_xen_hvm_config {
        flags: KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL,
        msr: HYPERCALL_PAGE,
        ..kvm_xen_hvm_config::default()
    };
    let intercepted = offered & KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL != 0
        // SAFETY: the descriptor is a virtual machine. The structure is read and not kept.
        && unsafe { libc::ioctl(vm.as_raw_fd(), KVM_XEN_HVM_CONFIG, &raw const config) } == 0;
    if !intercepted {
        log::info!("kvm: this kernel cannot intercept vmcall: guests reach KVM's hypercall for the host's time");
    }
}

fn capability(cap: u32, argument: u32) -> kvm_enable_cap {
    let mut capability = kvm_enable_cap { cap, ..kvm_enable_cap::default() };
    capability.args[0] = argument.into();
    capability
}
