//! The registers of SYSCALL (SDM volume 3, 5.8.8), which VMX does not switch.

use x86::msr::{IA32_CSTAR, IA32_FMASK, IA32_LSTAR, IA32_STAR};

use super::privileged::{rdmsr, wrmsr};

const REGISTERS: [u32; 4] = [IA32_STAR, IA32_LSTAR, IA32_CSTAR, IA32_FMASK];

/// The kernel's, while a guest has them. A guest cannot set them: for it they are 0, so that its SYSCALL leads nowhere
/// in the kernel.
#[derive(Debug)]
pub(crate) struct SyscallMsrs([u64; 4]);

impl SyscallMsrs {
    /// Takes the kernel's values away.
    ///
    /// # Safety
    /// CPL 0, interrupts disabled, and [`restore`](Self::restore) follows.
    pub(crate) unsafe fn take() -> Self {
        // SAFETY: the caller's promise; every CPU in 64-bit mode has them.
        Self(REGISTERS.map(|register| unsafe {
            let value = rdmsr(register);
            wrmsr(register, 0);
            value
        }))
    }

    /// Brings them back.
    ///
    /// # Safety
    /// CPL 0, on the CPU of [`take`](Self::take).
    pub(crate) unsafe fn restore(&self) {
        for (register, value) in REGISTERS.into_iter().zip(self.0) {
            // SAFETY: the values were there before.
            unsafe { wrmsr(register, value) };
        }
    }
}
