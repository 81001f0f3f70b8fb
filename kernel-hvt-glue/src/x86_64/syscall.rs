//! MSRs of SYSCALL (SDM volume 3, 5.8.8), which VMX does not switch.

#![expect(unsafe_code, reason = "privileged instructions, and structures that the CPU reads")]

use x86::msr::{IA32_CSTAR, IA32_FMASK, IA32_LSTAR, IA32_STAR};

use super::privileged::{rdmsr, wrmsr};

const REGISTERS: [u32; 4] = [IA32_STAR, IA32_LSTAR, IA32_CSTAR, IA32_FMASK];

/// The kernel's values while a guest runs. A guest cannot set these MSRs. They are 0 for the guest,
/// so that its SYSCALL does not reach the kernel's entry point.
#[derive(Debug)]
pub(crate) struct SyscallMsrs([u64; 4]);

impl SyscallMsrs {
    /// Saves the kernel's values and clears the MSRs.
    ///
    /// # Safety
    /// Must run at CPL 0 with interrupts disabled. The caller must call [`restore`](Self::restore)
    /// afterwards.
    pub(crate) unsafe fn take() -> Self {
        // SAFETY: guaranteed by the caller; every CPU in 64-bit mode has these MSRs.
        Self(REGISTERS.map(|register| unsafe {
            let value = rdmsr(register);
            wrmsr(register, 0);
            value
        }))
    }

    /// Restores the kernel's values.
    ///
    /// # Safety
    /// Must run at CPL 0, on the CPU of [`take`](Self::take).
    pub(crate) unsafe fn restore(&self) {
        for (register, value) in REGISTERS.into_iter().zip(self.0) {
            // SAFETY: the values were set before.
            unsafe { wrmsr(register, value) };
        }
    }
}
