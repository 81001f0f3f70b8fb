//! Ending the emulator, and what an emulator cannot be told.

use hvt_harness::power;
use x86_64::instructions::{hlt, interrupts};

use crate::console::println;

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
    // SAFETY: this is a kernel, and on a PC without an emulator behind them these ports do nothing.
    unsafe { power::end_emulator(outcome as u32) };
    interrupts::disable();
    loop {
        hlt();
    }
}
