//! Ending the emulator, and what an emulator cannot be told.

pub(crate) use hvt_harness::power::Outcome;
use hvt_harness::power::end_emulator;
use x86_64::instructions::{hlt, interrupts};

use crate::console::println;

/// Prints the outcome, which is all that Bochs can tell its caller, and ends the emulator with it.
pub(crate) fn off(outcome: Outcome) -> ! {
    println!("bare: power off, status {}", outcome as u32);
    // SAFETY: this is a kernel, and on a PC without an emulator behind them these ports do nothing.
    unsafe { end_emulator(outcome) };
    interrupts::disable();
    loop {
        hlt();
    }
}
