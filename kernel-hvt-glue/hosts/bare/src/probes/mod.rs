//! What the hypervisor promises, asked by guests of a few instructions: each of its exits, and that guests cannot reach
//! what is not theirs.

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

/// A question: what the hypervisor does is what it promises.
pub(crate) struct Probe {
    /// Its name, unique.
    pub(crate) name: &'static str,
    /// Asks it.
    pub(crate) run: fn(&mut Context<'_>) -> Answer,
}

/// Every probe.
pub(crate) const PROBES: &[&[Probe]] =
    &[exits::PROBES, state::PROBES, privileged::PROBES, isolation::PROBES, cpus::PROBES];

/// Ends the probe unless both are equal.
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

/// Ends the probe unless a value has a form.
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
