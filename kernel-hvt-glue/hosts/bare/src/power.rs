//! Powers off the emulator.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

pub(crate) use hvt_harness::power::Outcome;
use hvt_harness::power::end_emulator;
use x86_64::instructions::{hlt, interrupts};

use crate::console::println;

/// Prints the outcome, because Bochs cannot report it to its caller in another way, and ends the
/// emulator with it.
pub(crate) fn off(outcome: Outcome) -> ! {
    println!("bare: power off, status {}", outcome as u32);
    // SAFETY: this is a kernel, and on a PC without an emulator these ports have no effect.
    unsafe { end_emulator(outcome) };
    interrupts::disable();
    loop {
        hlt();
    }
}
