//! Debug registers (SDM volume 3, 18.2) of guest and kernel.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use super::privileged::{dr0, dr0_write, dr1, dr1_write, dr2, dr2_write, dr3, dr3_write, dr6, dr7, set_dr6, set_dr7};

/// DR6 after reset.
pub(crate) const DR6_RESET: u64 = 0xffff_0ff0;
/// DR7 after reset: every breakpoint is disabled.
pub(crate) const DR7_RESET: u64 = 0x400;
/// DR7: the enable bits of the four breakpoints.
const DR7_ENABLED: u64 = 0xff;

/// DR0 to DR3.
#[derive(Clone, Copy, Debug, Default)]
struct Addresses([usize; 4]);

impl Addresses {
    /// Reads the registers from the CPU.
    ///
    /// # Safety
    /// Must run at CPL 0.
    unsafe fn save() -> Self {
        // SAFETY: guaranteed by the caller.
        unsafe { Self([dr0(), dr1(), dr2(), dr3()]) }
    }

    /// Loads the registers into the CPU.
    ///
    /// # Safety
    /// Must run at CPL 0, with every breakpoint disabled.
    unsafe fn load(&self) {
        // SAFETY: guaranteed by the caller; the addresses have no effect while breakpoints are
        // disabled.
        unsafe {
            dr0_write(self.0[0]);
            dr1_write(self.0[1]);
            dr2_write(self.0[2]);
            dr3_write(self.0[3]);
        }
    }
}

/// Debug registers of a kernel that has set breakpoints.
#[derive(Clone, Copy, Debug)]
struct HostRegisters {
    addresses: Addresses,
    dr6: u64,
    dr7: u64,
}

/// Debug registers that entries and exits do not switch in hardware. They are switched only if
/// necessary: after the guest's first access, and while the kernel has breakpoints.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DebugRegisters {
    guest: Option<Addresses>,
    host: Option<HostRegisters>,
    /// The guest's DR6, if the control structure does not hold it.
    dr6: Option<u64>,
    /// `guest` or `host` is `Some`.
    matter: bool,
}

impl DebugRegisters {
    /// Returns the registers of a new guest on VMX, which does not switch DR6.
    pub(crate) fn with_dr6() -> Self {
        Self { dr6: Some(DR6_RESET), ..Self::default() }
    }

    /// Gives the registers to the guest, after its first access.
    pub(crate) fn give_to_guest(&mut self) {
        self.guest.get_or_insert_default();
        self.matter = true;
    }

    /// Returns `true` if the guest owns the registers.
    #[cfg(test)]
    pub(crate) fn are_guests(&self) -> bool {
        self.guest.is_some()
    }

    /// Sets bits in the guest's DR6, if the control structure does not hold it, as a #DB does: bits
    /// 3:0 are replaced, the other bits are added (18.2.3).
    pub(crate) fn report(&mut self, status: u64) {
        if let Some(dr6) = &mut self.dr6 {
            *dr6 = *dr6 & !0xf | status;
        }
    }

    /// Saves the kernel's registers if it has breakpoints. Without breakpoints this is unnecessary,
    /// because an exit disables every breakpoint (APM volume 2, 15.6; SDM volume 3, 28.5.1).
    ///
    /// # Safety
    /// Must run at CPL 0.
    #[inline]
    pub(crate) unsafe fn bind(&mut self) {
        // SAFETY: guaranteed by the caller.
        let dr7 = unsafe { dr7() };
        let has_breakpoints = dr7 & DR7_ENABLED != 0;
        if !has_breakpoints && self.host.is_none() {
            return;
        }
        // SAFETY: guaranteed by the caller.
        self.host = has_breakpoints.then(|| unsafe { HostRegisters { addresses: Addresses::save(), dr6: dr6(), dr7 } });
        self.matter = self.guest.is_some() || self.host.is_some();
    }

    /// Loads the guest's registers into the CPU.
    ///
    /// # Safety
    /// Must run at CPL 0 with interrupts disabled, after [`bind`](Self::bind) on this CPU.
    #[inline]
    pub(crate) unsafe fn enter(&self) {
        if self.matter
            && let Some(guest) = &self.guest
        {
            // SAFETY: guaranteed by the caller.
            unsafe {
                set_dr7(DR7_RESET);
                guest.load();
                if let Some(dr6) = self.dr6 {
                    set_dr6(dr6);
                }
            }
        }
    }

    /// Saves the guest's registers and restores the kernel's.
    ///
    /// # Safety
    /// Must run at CPL 0 with interrupts disabled, after an exit that followed
    /// [`enter`](Self::enter).
    #[inline]
    pub(crate) unsafe fn leave(&mut self) {
        if !self.matter {
            return;
        }
        // SAFETY: guaranteed by the caller; DR7 is written last, when the addresses are valid.
        unsafe {
            if let Some(guest) = &mut self.guest {
                *guest = Addresses::save();
                if let Some(status) = &mut self.dr6 {
                    *status = dr6();
                }
            }
            if let Some(host) = &self.host {
                host.addresses.load();
                set_dr6(host.dr6);
                set_dr7(host.dr7);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_exception_replaces_what_it_reports_and_keeps_the_rest() {
        let mut registers = DebugRegisters::with_dr6();
        registers.report(1 << 14 | 0b1);
        registers.report(0b10);
        assert_eq!(registers.dr6, Some(DR6_RESET | 1 << 14 | 0b10));
        let mut in_vmcb = DebugRegisters::default();
        in_vmcb.report(1);
        assert_eq!(in_vmcb.dr6, None);
    }
}
