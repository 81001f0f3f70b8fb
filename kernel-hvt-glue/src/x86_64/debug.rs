//! Debug registers (SDM volume 3, 18.2): a guest's and the kernel's.

use super::privileged::{dr0, dr1, dr2, dr3, dr6, dr7, set_dr0, set_dr1, set_dr2, set_dr3, set_dr6, set_dr7};

/// DR7 with every breakpoint off.
const DR7_OFF: u64 = 0x400;
/// DR7: the enable bits of the four breakpoints.
const DR7_ENABLED: u64 = 0xff;

/// DR6 of this CPU.
///
/// # Safety
/// CPL 0.
pub(crate) unsafe fn status() -> u64 {
    // SAFETY: the caller's promise.
    unsafe { dr6() }
}

/// DR0 to DR3.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Addresses([u64; 4]);

impl Addresses {
    /// # Safety
    /// CPL 0.
    unsafe fn current() -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self([dr0(), dr1(), dr2(), dr3()]) }
    }

    /// Puts them on the CPU, whose own breakpoints are switched off before if there are any.
    ///
    /// # Safety
    /// CPL 0, and whoever owns the registers has saved them.
    pub(crate) unsafe fn load(&self, breakpoints: bool) {
        // SAFETY: the caller's promise; without breakpoints the addresses mean nothing.
        unsafe {
            if breakpoints {
                set_dr7(DR7_OFF);
            }
            set_dr0(self.0[0]);
            set_dr1(self.0[1]);
            set_dr2(self.0[2]);
            set_dr3(self.0[3]);
        }
    }

    /// Takes them from the CPU.
    ///
    /// # Safety
    /// CPL 0.
    pub(crate) unsafe fn save(&mut self) {
        // SAFETY: the caller's promise.
        *self = unsafe { Self::current() };
    }
}

/// All debug registers of a kernel that has set breakpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    addresses: Addresses,
    dr6: u64,
    dr7: u64,
}

impl Registers {
    /// Those on the CPU, if a breakpoint is enabled. Otherwise they need not survive: an exit from a guest leaves every
    /// breakpoint off by itself (APM volume 2, 15.6; SDM volume 3, 28.5.1).
    ///
    /// # Safety
    /// CPL 0.
    pub(crate) unsafe fn in_use() -> Option<Self> {
        // SAFETY: the caller's promise.
        unsafe {
            let dr7 = dr7();
            (dr7 & DR7_ENABLED != 0).then(|| Self { addresses: Addresses::current(), dr6: dr6(), dr7 })
        }
    }

    /// Puts them back on the CPU, whose breakpoints are off.
    ///
    /// # Safety
    /// CPL 0, and the registers were this CPU's before.
    pub(crate) unsafe fn restore(&self) {
        // SAFETY: the caller's promise; DR7 comes last, when the addresses are right.
        unsafe {
            self.addresses.load(false);
            set_dr6(self.dr6);
            set_dr7(self.dr7);
        }
    }
}
