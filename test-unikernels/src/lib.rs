//! What the test unikernels share.
//!
//! | module | what is in it |
//! |---|---|
//! | this one | arguments, and how a guest says that it is content or not |
//! | [`responder`] | answers ARP and ICMP echo |
//! | [`ip`] | a TCP/IP stack on a network device |
//! | [`access`] | memory accesses that may be forbidden |
//! | [`raw`] | hypercalls, and what is none, without the bindings' checks |
//! | [`cycles`] | the cycle counter |
#![no_std]

use core::fmt;

use guest_bindings::{ExitStatus, StartInfo, exit, println};

mod arch;
pub mod ip;
pub mod responder;

pub use arch::*;

/// Ends the guest: it is content.
pub fn success() -> ExitStatus {
    println!("SUCCESS");
    ExitStatus::SUCCESS
}

/// Ends the guest: it is not.
pub fn failure(what: impl fmt::Display) -> ! {
    println!("FAILURE: {what}");
    exit(ExitStatus::FAILURE)
}

/// Ends the guest unless `holds`.
#[track_caller]
pub fn check(holds: bool, what: impl fmt::Display) {
    if !holds {
        failure(format_args!("{what} ({})", core::panic::Location::caller()));
    }
}

/// The argument at this position.
pub fn argument(start: &StartInfo, position: usize) -> &'static str {
    match start.arguments().nth(position) {
        Some(argument) => argument,
        None => failure(format_args!("argument {position} is missing")),
    }
}

/// The value of an argument of the form `name=value`.
pub fn option(start: &StartInfo, name: &str) -> Option<&'static str> {
    start.arguments().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
}

/// A number, decimal or with `0x`.
pub fn number(text: &str) -> u64 {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|error| failure(format_args!("'{text}': {error}")))
}
