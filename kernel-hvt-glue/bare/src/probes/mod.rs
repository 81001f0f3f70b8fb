//! What the hypervisor promises, asked by guests of a few instructions: each of its exits, and that guests cannot reach
//! what is not theirs.

mod code;
mod cpus;
mod exits;
mod isolation;
mod machine;
mod privileged;
mod state;

use alloc::string::String;

use kernel_hvt_glue::{Cpu, Hypervisor};

use crate::host::Kernel;

pub(crate) use code::hypercall as hypercall_loop;
pub(crate) use machine::{DATA, MEMORY, Machine};

/// What a probe needs.
pub(crate) struct Context<'a> {
    pub(crate) hypervisor: &'a Hypervisor<Kernel>,
    pub(crate) cpu: &'a mut Cpu<Kernel>,
}

/// What comes of a probe. `Err` says how the answer differs from what was promised.
pub(crate) type Answer = Result<Verdict, String>;

/// A probe's answer when nothing is wrong.
pub(crate) enum Verdict {
    /// It is as promised.
    Passed,
    /// It cannot be asked here, for this reason.
    Skipped(&'static str),
}

/// A question.
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
