//! Ending the emulator.

use x86_64::instructions::port::PortWriteOnly;

/// QEMU's `isa-debug-exit` device: QEMU ends with status `2 * value + 1`.
const QEMU_DEBUG_EXIT: u16 = 0xf4;
/// Bochs ends when it has read [`BOCHS_SHUTDOWN`] here.
const BOCHS_POWER: u16 = 0x8900;
/// See [`BOCHS_POWER`].
const BOCHS_SHUTDOWN: &[u8] = b"Shutdown";

/// How what was to be checked ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every check held.
    Passed = 0,
    /// A check did not hold.
    Failed = 1,
    /// What does the checks came to grief itself.
    Panicked = 2,
}

/// Ends the emulator that this runs in, QEMU with a status that tells of `outcome`. Comes back where there is none.
///
/// # Safety
/// The caller may use I/O ports, and nothing but an emulator listens at these two.
pub unsafe fn end_emulator(outcome: Outcome) {
    // SAFETY: the caller's promise.
    unsafe {
        PortWriteOnly::<u32>::new(QEMU_DEBUG_EXIT).write(outcome as u32);
        let mut port = PortWriteOnly::<u8>::new(BOCHS_POWER);
        for &byte in BOCHS_SHUTDOWN {
            port.write(byte);
        }
    }
}
