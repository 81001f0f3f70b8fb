//! Ends the emulator.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use x86_64::instructions::port::PortWriteOnly;

/// Port of QEMU's `isa-debug-exit` device: QEMU exits with status `2 * value + 1`.
const QEMU_DEBUG_EXIT: u16 = 0xf4;
/// Port on which Bochs exits after the string [`BOCHS_SHUTDOWN`].
const BOCHS_POWER: u16 = 0x8900;
/// See [`BOCHS_POWER`].
const BOCHS_SHUTDOWN: &[u8] = b"Shutdown";

/// Outcome of all checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every check passed.
    Passed = 0,
    /// A check failed.
    Failed = 1,
    /// The program that runs the checks failed itself.
    Panicked = 2,
}

/// Ends the emulator, with a QEMU exit status for `outcome`. Returns if there is no emulator.
///
/// # Safety
/// The caller must be allowed to use I/O ports, and no device other than an emulator's may use
/// these two ports.
pub unsafe fn end_emulator(outcome: Outcome) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        PortWriteOnly::<u32>::new(QEMU_DEBUG_EXIT).write(outcome as u32);
        let mut port = PortWriteOnly::<u8>::new(BOCHS_POWER);
        for &byte in BOCHS_SHUTDOWN {
            port.write(byte);
        }
    }
}
