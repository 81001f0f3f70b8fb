//! Probes of the hypervisor's guarantees by guests of a few instructions: every exit, and the
//! isolation of guests.

mod code;
mod cpus;
mod exits;
mod isolation;
mod machine;
mod privileged;
mod state;

pub(crate) use code::hypercall as hypercall_loop;
pub(crate) use machine::{DATA, MEMORY, Machine};

use hvt_harness::tally::{Answer, Verdict};

use crate::host::Context;

/// Check of one guarantee of the hypervisor.
pub(crate) struct Probe {
    /// Unique name.
    pub(crate) name: &'static str,
    /// Runs the check.
    pub(crate) run: fn(&mut Context<'_>) -> Answer,
}

/// Every probe.
pub(crate) const PROBES: &[&[Probe]] =
    &[exits::PROBES, state::PROBES, privileged::PROBES, isolation::PROBES, cpus::PROBES];

/// Ends the probe with an error unless both values are equal.
macro_rules! expect_eq {
    ($left:expr, $right:expr) => {
        match (&$left, &$right) {
            (left, right) if left == right => {}
            (left, right) => {
                return Err(alloc::format!("{}: {left:x?}, expected {right:x?}", stringify!($left)));
            }
        }
    };
}
use expect_eq;

/// Ends the probe with an error unless a value matches a pattern.
macro_rules! expect_matches {
    ($value:expr, $pattern:pat $(if $guard:expr)?) => {
        match $value {
            $pattern $(if $guard)? => {}
            value => {
                let pattern = stringify!($pattern $(if $guard)?);
                return Err(alloc::format!("{}: {value:x?}, expected {pattern}", stringify!($value)));
            }
        }
    };
}
use expect_matches;
