//! Ending the emulator, and what an emulator cannot be told.

use x86_64::instructions::{hlt, interrupts, port::PortWriteOnly};

use crate::console::println;

/// QEMU's `isa-debug-exit` device: QEMU ends with status `2 * value + 1`.
const QEMU_DEBUG_EXIT: u16 = 0xf4;
/// Bochs ends when it has read [`BOCHS_SHUTDOWN`] here.
const BOCHS_POWER: u16 = 0x8900;
/// See [`BOCHS_POWER`].
const BOCHS_SHUTDOWN: &[u8] = b"Shutdown";

/// How the kernel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every check held.
    Passed = 0,
    /// A check did not hold.
    Failed = 1,
    /// The kernel itself came to grief.
    Panicked = 2,
}

/// Prints the outcome, which is all that Bochs can tell its caller, and ends the emulator with it.
pub(crate) fn off(outcome: Outcome) -> ! {
    println!("bare: power off, status {}", outcome as u32);
    // SAFETY: without an emulator behind it neither port does anything.
    unsafe {
        PortWriteOnly::<u32>::new(QEMU_DEBUG_EXIT).write(outcome as u32);
        let mut port = PortWriteOnly::<u8>::new(BOCHS_POWER);
        for &byte in BOCHS_SHUTDOWN {
            port.write(byte);
        }
    }
    interrupts::disable();
    loop {
        hlt();
    }
}
