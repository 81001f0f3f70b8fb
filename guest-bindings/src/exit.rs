//! Termination of the guest.

#![expect(unsafe_code, reason = "hypercalls, and memory that the tender writes")]

use core::fmt;

use hvt_abi::Gpa;
use hvt_abi::hypercall::{Halt, Number, exit_status};

use crate::{arch, console, hypercall};

/// Exit status of the guest, and of the tender that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus(pub i32);

impl ExitStatus {
    /// The application succeeded: 0.
    pub const SUCCESS: Self = Self(exit_status::SUCCESS);
    /// The application failed: 1.
    pub const FAILURE: Self = Self(exit_status::FAILURE);
    /// The guest aborted: 255.
    pub const ABORT: Self = Self(exit_status::ABORT);
}

/// Terminates the guest.
pub fn exit(status: ExitStatus) -> ! {
    halt(status, Gpa(0))
}

/// Writes the reason to the console and terminates the guest with [`ExitStatus::ABORT`].
pub fn abort(reason: impl fmt::Display) -> ! {
    console::print(format_args!("Solo5: ABORT: {reason}\n"));
    exit(ExitStatus::ABORT)
}

/// Terminates the guest. The cookie tells the tender the address of the guest's registers for a
/// core dump.
pub(crate) fn halt(status: ExitStatus, cookie: Gpa) -> ! {
    let mut argument = Halt { cookie, exit_status: status.0, reserved: 0 };
    // SAFETY: The tender only reads the cookie, and the guest executes nothing afterwards.
    unsafe { hypercall::call::<{ Number::Halt as u32 }, _>(&mut argument) };
    // A tender does not return from this hypercall.
    arch::stop()
}
