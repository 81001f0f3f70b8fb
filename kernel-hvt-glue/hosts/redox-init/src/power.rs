//! Powers off the machine.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

pub(crate) use hvt_harness::power::Outcome;
use hvt_harness::power::end_emulator;

use crate::{
    console::println,
    fd::{Fd, Scheme},
    sys,
};

/// Prints the outcome and ends the emulator with it. On another machine, shuts the kernel down.
pub(crate) fn off(outcome: Outcome) -> ! {
    println!("power off, status {}", outcome as u32);
    if allow_ports().is_ok() {
        // SAFETY: this context may use ports; on a PC without an emulator these two ports have no
        // effect.
        unsafe { end_emulator(outcome) };
    }
    if let Ok(stop) = Fd::open(Scheme::Sys, "kstop") {
        // SAFETY: shutting down the machine is intended.
        let _ = unsafe { sys::write(stop.number(), b"shutdown") };
    }
    loop {
        sys::sleep(u64::MAX / 2);
    }
}

/// Allows this context to use I/O ports.
fn allow_ports() -> sys::Result<()> {
    /// `ProcSchemeVerb::Iopl`.
    const IOPL: u64 = 255;
    let context = Fd::of_root(Scheme::Proc, "cur-context")?;
    // SAFETY: the call changes the context's privileges, but no memory.
    unsafe { context.call(&mut [], &[IOPL]) }.map(drop)
}
