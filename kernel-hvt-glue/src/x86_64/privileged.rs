//! Privileged instructions, one function each. The crate `x86` provides those whose values it does
//! not interpret: its types for CR0, CR4, DR6, DR7 and XCR0 drop unknown bits.
//!
//! Every instruction faults unless it runs at CPL 0 in 64-bit mode, which
//! [`Hypervisor::enable`](crate::Hypervisor::enable) requires. Before `enable`, only [`rdmsr`] and
//! [`xgetbv`] are used, for registers that CPUID reports.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use core::arch::asm;

pub(crate) use x86::{
    controlregs::cr3,
    debugregs::{dr0, dr0_write, dr1, dr1_write, dr2, dr2_write, dr3, dr3_write},
    msr::{rdmsr, wrmsr},
};

/// Reads XCR0.
///
/// # Safety
/// CR4.OSXSAVE must be set.
pub(crate) unsafe fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: guaranteed by the caller.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Reads the time-stamp counter.
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: every CPU in 64-bit mode has the instruction, and at CPL 0 it never faults.
    unsafe { core::arch::x86_64::_rdtsc() }
}

macro_rules! read_register {
    ($($(#[$doc:meta])* $name:ident = $register:literal;)*) => {
        $(
            $(#[$doc])*
            /// # Safety
            /// Must run at CPL 0.
            pub(crate) unsafe fn $name() -> u64 {
                let value;
                // SAFETY: guaranteed by the caller; reading has no side effect.
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
            /// # Safety
            /// Must run at CPL 0. The value must be valid for the register, and the caller must own
            /// the state that it changes.
            pub(crate) unsafe fn $name(value: u64) {
                // SAFETY: guaranteed by the caller. Not `nomem`: the register may change the
                // meaning of memory.
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

/// Returns the selector in SS.
pub(crate) fn stack_selector() -> u16 {
    x86::segmentation::ss().bits()
}

/// Saved value of RFLAGS.IF.
pub(crate) struct InterruptFlag(bool);

impl InterruptFlag {
    /// Disables interrupts and returns the previous value.
    ///
    /// # Safety
    /// Must run at CPL 0.
    #[inline]
    pub(crate) unsafe fn clear() -> Self {
        let rflags: u64;
        // SAFETY: guaranteed by the caller. Not `nomem`: later accesses must not move before `cli`.
        unsafe { asm!("pushfq", "pop {}", "cli", out(reg) rflags) };
        Self(rflags & 1 << 9 != 0)
    }

    /// Enables interrupts if they were enabled before, and takes pending ones. Returns `true` if
    /// they were enabled.
    ///
    /// # Safety
    /// Must run at CPL 0.
    #[inline]
    pub(crate) unsafe fn restore(self) -> bool {
        if self.0 {
            // SAFETY: interrupts were enabled before; `nop` ends the shadow of `sti`, so that
            // pending interrupts are taken before the function returns.
            unsafe { asm!("sti", "nop") };
        }
        self.0
    }
}

/// Calls the kernel's NMI handler. When it returns, NMIs are unblocked.
///
/// # Safety
/// Must run at CPL 0, after an NMI has caused an exit, which consumes the NMI.
pub(crate) unsafe fn raise_nmi() {
    // SAFETY: the kernel's IDT has a handler at vector 2.
    unsafe { asm!("int 2") };
}

/// Calls the kernel's machine check handler.
///
/// # Safety
/// Must run at CPL 0, with a machine check to handle.
pub(crate) unsafe fn raise_machine_check() {
    // SAFETY: the kernel's IDT has a handler at vector 18.
    unsafe { asm!("int 18") };
}
