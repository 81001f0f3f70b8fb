//! Debug registers (SDM volume 3, 18.2): a guest's and the kernel's.

use super::privileged::{dr0, dr0_write, dr1, dr1_write, dr2, dr2_write, dr3, dr3_write, dr6, dr7, set_dr6, set_dr7};

/// DR6 after reset.
pub(crate) const DR6_RESET: u64 = 0xffff_0ff0;
/// DR7 after reset: every breakpoint is off.
pub(crate) const DR7_RESET: u64 = 0x400;
/// DR7: the enable bits of the four breakpoints.
const DR7_ENABLED: u64 = 0xff;

/// DR0 to DR3.
#[derive(Clone, Copy, Debug, Default)]
struct Addresses([usize; 4]);

impl Addresses {
    /// Takes them from the CPU.
    ///
    /// # Safety
    /// CPL 0.
    unsafe fn save() -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self([dr0(), dr1(), dr2(), dr3()]) }
    }

    /// Puts them on the CPU.
    ///
    /// # Safety
    /// CPL 0, every breakpoint is off.
    unsafe fn load(&self) {
        // SAFETY: the caller's promise; without breakpoints the addresses mean nothing.
        unsafe {
            dr0_write(self.0[0]);
            dr1_write(self.0[1]);
            dr2_write(self.0[2]);
            dr3_write(self.0[3]);
        }
    }
}

/// The registers of a kernel that has set breakpoints.
#[derive(Clone, Copy, Debug)]
struct HostRegisters {
    addresses: Addresses,
    dr6: u64,
    dr7: u64,
}

/// The debug registers that entries and exits do not switch by themselves, which is done where it matters: once the guest
/// has touched them, and while the kernel has breakpoints.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DebugRegisters {
    guest: Option<Addresses>,
    host: Option<HostRegisters>,
    /// The guest's DR6, where it is not in the control structure.
    dr6: Option<u64>,
    /// One of `guest` and `host` is there.
    matter: bool,
}

impl DebugRegisters {
    /// Those of a new guest on VMX, which does not switch DR6.
    pub(crate) fn with_dr6() -> Self {
        Self { dr6: Some(DR6_RESET), ..Self::default() }
    }

    /// The guest has touched them.
    pub(crate) fn give_to_guest(&mut self) {
        self.guest.get_or_insert_default();
        self.matter = true;
    }

    /// Whether the guest has them.
    #[cfg(test)]
    pub(crate) fn are_guests(&self) -> bool {
        self.guest.is_some()
    }

    /// Sets bits in the guest's DR6, where it is not in the control structure, as a #DB would: bits 3:0 are replaced, the
    /// rest is added (18.2.3).
    pub(crate) fn report(&mut self, status: u64) {
        if let Some(dr6) = &mut self.dr6 {
            *dr6 = *dr6 & !0xf | status;
        }
    }

    /// Looks at the kernel's. Without breakpoints they need not survive: an exit leaves every breakpoint off by itself (APM
    /// volume 2, 15.6; SDM volume 3, 28.5.1).
    ///
    /// # Safety
    /// CPL 0.
    #[inline]
    pub(crate) unsafe fn bind(&mut self) {
        // SAFETY: the caller's promise.
        let dr7 = unsafe { dr7() };
        let has_breakpoints = dr7 & DR7_ENABLED != 0;
        if !has_breakpoints && self.host.is_none() {
            return;
        }
        // SAFETY: the caller's promise.
        self.host = has_breakpoints.then(|| unsafe { HostRegisters { addresses: Addresses::save(), dr6: dr6(), dr7 } });
        self.matter = self.guest.is_some() || self.host.is_some();
    }

    /// Puts the guest's on the CPU.
    ///
    /// # Safety
    /// CPL 0, interrupts disabled, after [`bind`](Self::bind) on this CPU.
    #[inline]
    pub(crate) unsafe fn enter(&self) {
        if self.matter
            && let Some(guest) = &self.guest
        {
            // SAFETY: the caller's promise.
            unsafe {
                set_dr7(DR7_RESET);
                guest.load();
                if let Some(dr6) = self.dr6 {
                    set_dr6(dr6);
                }
            }
        }
    }

    /// Takes the guest's from the CPU and puts the kernel's back.
    ///
    /// # Safety
    /// CPL 0, interrupts disabled, after an exit that followed [`enter`](Self::enter).
    #[inline]
    pub(crate) unsafe fn leave(&mut self) {
        if !self.matter {
            return;
        }
        // SAFETY: the caller's promise; DR7 comes last, when the addresses are right.
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
