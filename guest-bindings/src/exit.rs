//! How a guest ends.

use core::fmt;

use hvt_abi::Gpa;
use hvt_abi::hypercall::{Halt, Number, exit_status};

use crate::{arch, console, hypercall};

/// What the tender exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus(pub i32);

impl ExitStatus {
    /// The application is content: 0.
    pub const SUCCESS: Self = Self(exit_status::SUCCESS);
    /// The application failed: 1.
    pub const FAILURE: Self = Self(exit_status::FAILURE);
    /// The guest gave up: 255.
    pub const ABORT: Self = Self(exit_status::ABORT);
}

/// Ends the guest.
pub fn exit(status: ExitStatus) -> ! {
    halt(status, Gpa(0))
}

/// Says why on the console and ends the guest with [`ExitStatus::ABORT`].
pub fn abort(reason: impl fmt::Display) -> ! {
    console::print(format_args!("Solo5: ABORT: {reason}\n"));
    exit(ExitStatus::ABORT)
}

/// Ends the guest and hands the tender a hint where to find its registers, for a core dump.
pub(crate) fn halt(status: ExitStatus, cookie: Gpa) -> ! {
    let mut argument = Halt { cookie, exit_status: status.0, reserved: 0 };
    // SAFETY: The tender only reads, and the guest has nothing more to lose.
    unsafe { hypercall::call(Number::Halt, &mut argument) };
    // A tender does not come back from that.
    arch::stop()
}
