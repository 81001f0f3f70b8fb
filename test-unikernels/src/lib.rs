//! Code shared by the test unikernels.
//!
//! | module | contents |
//! |---|---|
//! | this module | arguments, and reports of success and failure |
//! | [`responder`] | responder for ARP requests and ICMP echos |
//! | [`ip`] | TCP/IP stack on a network device |
//! | [`access`] | memory accesses that may be forbidden |
//! | [`raw`] | hypercalls, and similar accesses, without the checks of the bindings |
//! | [`cycles`] | cycle counter |
#![no_std]

use core::fmt;

use guest_bindings::{ExitStatus, StartInfo, exit, println};

mod arch;
pub mod ip;
pub mod responder;

pub use arch::*;

/// Prints SUCCESS and returns the exit status for success.
pub fn success() -> ExitStatus {
    println!("SUCCESS");
    ExitStatus::SUCCESS
}

/// Prints FAILURE with a reason and ends the guest with the exit status for failure.
pub fn failure(what: impl fmt::Display) -> ! {
    println!("FAILURE: {what}");
    exit(ExitStatus::FAILURE)
}

/// Ends the guest with a failure unless `holds` is `true`.
#[track_caller]
pub fn check(holds: bool, what: impl fmt::Display) {
    if !holds {
        failure(format_args!("{what} ({})", core::panic::Location::caller()));
    }
}

/// Returns the argument at this position.
pub fn argument(start: &StartInfo, position: usize) -> &'static str {
    match start.arguments().nth(position) {
        Some(argument) => argument,
        None => failure(format_args!("argument {position} is missing")),
    }
}

/// Returns the value of an argument of the form `name=value`.
pub fn option(start: &StartInfo, name: &str) -> Option<&'static str> {
    start.arguments().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
}

/// Parses a number, decimal or hexadecimal with `0x`.
pub fn number(text: &str) -> u64 {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|error| failure(format_args!("'{text}': {error}")))
}
