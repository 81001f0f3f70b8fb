//! Privileged instructions, one function each. The crate `x86` has those whose values it does not interpret: its types for
//! CR0, CR4, DR6, DR7 and XCR0 drop bits that it has no name for.
//!
//! All of them fault unless they run at CPL 0 in 64-bit mode; that they do is what
//! [`Hypervisor::enable`](crate::Hypervisor::enable) demands, and nothing here runs before it but
//! [`rdmsr`] and [`xgetbv`] of registers that CPUID announces.

use core::arch::asm;

pub(crate) use x86::{
    controlregs::cr3,
    debugregs::{dr0, dr0_write, dr1, dr1_write, dr2, dr2_write, dr3, dr3_write},
    msr::{rdmsr, wrmsr},
};

/// Reads XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set.
pub(crate) unsafe fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Reads the time-stamp counter.
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: every CPU in 64-bit mode has it, and at CPL 0 it never faults.
    unsafe { core::arch::x86_64::_rdtsc() }
}

macro_rules! read_register {
    ($($(#[$doc:meta])* $name:ident = $register:literal;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// CPL 0.
            pub(crate) unsafe fn $name() -> u64 {
                let value;
                // SAFETY: the caller's promise; reading has no effect.
                unsafe {
                    asm!(concat!("mov {}, ", $register), out(reg) value, options(nomem, nostack, preserves_flags));
                }
                value
            }
        )*
    };
}

macro_rules! write_register {
    ($($(#[$doc:meta])* $name:ident = $register:literal;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// CPL 0, the register takes the value, and what it changes is the caller's to change.
            pub(crate) unsafe fn $name(value: u64) {
                // SAFETY: the caller's promise. Not `nomem`: the register may decide what memory means.
                unsafe { asm!(concat!("mov ", $register, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
            }
        )*
    };
}

read_register! {
    /// Reads CR0.
    cr0 = "cr0";
    /// Reads CR4.
    cr4 = "cr4";
    /// Reads DR6.
    dr6 = "dr6";
    /// Reads DR7.
    dr7 = "dr7";
}

write_register! {
    /// Writes CR4.
    set_cr4 = "cr4";
    /// Writes DR6.
    set_dr6 = "dr6";
    /// Writes DR7.
    set_dr7 = "dr7";
}

/// The selector in SS.
pub(crate) fn stack_selector() -> u16 {
    x86::segmentation::ss().bits()
}

/// RFLAGS.IF as it was, to be restored.
pub(crate) struct InterruptFlag(bool);

impl InterruptFlag {
    /// Disables interrupts.
    ///
    /// # Safety
    /// CPL 0.
    #[inline]
    pub(crate) unsafe fn clear() -> Self {
        let rflags: u64;
        // SAFETY: the caller's promise. Not `nomem`: what follows must not move to where interrupts are on.
        unsafe { asm!("pushfq", "pop {}", "cli", out(reg) rflags) };
        Self(rflags & 1 << 9 != 0)
    }

    /// Enables interrupts again if they were enabled, and says whether they were; pending ones are taken here.
    ///
    /// # Safety
    /// CPL 0.
    #[inline]
    pub(crate) unsafe fn restore(self) -> bool {
        if self.0 {
            // SAFETY: interrupts were enabled before; `nop` ends the shadow of `sti`, so that they are taken by the
            // time this returns.
            unsafe { asm!("sti", "nop") };
        }
        self.0
    }
}

/// Calls the kernel's handler of non-maskable interrupts, which end being blocked when it returns.
///
/// # Safety
/// CPL 0, and an NMI has left the guest and been consumed by that.
pub(crate) unsafe fn raise_nmi() {
    // SAFETY: the kernel's IDT has a handler at vector 2.
    unsafe { asm!("int 2") };
}

/// Calls the kernel's handler of machine checks.
///
/// # Safety
/// CPL 0, and a machine check is there to be handled.
pub(crate) unsafe fn raise_machine_check() {
    // SAFETY: the kernel's IDT has a handler at vector 18.
    unsafe { asm!("int 18") };
}
