//! Model-specific registers (SDM volume 4) that a guest may read and write.
//!
//! RDMSR and WRMSR of any other register raise #GP. KVM and kernel-hvt-glue enforce the same list.
//! In particular, these registers are denied:
//!
//! | registers | reason |
//! |---|---|
//! | 4b56_4d00h and up, 11h, 12h (KVM); 4000_0000h and up (Hyper-V, Xen) | they make a hypervisor write clocks and steal time into guest memory |
//! | STAR, LSTAR, CSTAR, FMASK, SYSENTER | VMX does not switch the registers of SYSCALL, and a Solo5 guest has no CPL 3 |
//! | TSC_AUX | the CPUID list offers kernel-hvt-glue's guests no RDTSCP; on KVM RDTSCP reads 0 |
//! | APIC base and x2APIC (800h to 8ffh) | a guest has no APIC |
//! | MTRRs | the host controls memory types |
//! | performance counters, DEBUGCTL, branch records | they measure the host and its neighbours |
//! | machine checks, microcode, platform information, SPEC_CTRL, ARCH_CAPABILITIES | they describe or control the host's CPU |
//!
//! Written values are checked too. EFER accepts the bits that CPUID reports, PAT the defined memory
//! types, and the three base registers canonical addresses.

/// IA32_TIME_STAMP_COUNTER.
pub const TSC: u32 = 0x10;
/// IA32_PAT.
pub const PAT: u32 = 0x277;
/// IA32_EFER.
pub const EFER: u32 = 0xc000_0080;
/// IA32_FS_BASE.
pub const FS_BASE: u32 = 0xc000_0100;
/// IA32_GS_BASE.
pub const GS_BASE: u32 = 0xc000_0101;
/// IA32_KERNEL_GS_BASE.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Registers that hold guest values while the guest runs. The CPU accesses them without an exit.
pub const OWN: [u32; 3] = [FS_BASE, GS_BASE, KERNEL_GS_BASE];
/// Registers with checked or emulated accesses. Reads of the TSC cause no exit.
pub const EMULATED: [u32; 3] = [TSC, PAT, EFER];

/// Returns `true` if a guest may read and write this register.
#[must_use]
pub const fn is_allowed(register: u32) -> bool {
    matches!(register, TSC | PAT | EFER | FS_BASE | GS_BASE | KERNEL_GS_BASE)
}

/// Value of [`PAT`] after a reset (SDM volume 3, 12.12.4).
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_the_registers_that_are_allowed() {
        let listed = |register| OWN.contains(&register) || EMULATED.contains(&register);
        let ranges = [0..0x2000, 0x4000_0000..0x4000_0200, 0x4b56_4d00..0x4b56_4e00, 0xc000_0000..0xc001_2000];
        for register in ranges.into_iter().flatten() {
            assert_eq!(is_allowed(register), listed(register), "{register:#x}");
        }
        assert!(OWN.into_iter().chain(EMULATED).all(is_allowed));
    }
}
