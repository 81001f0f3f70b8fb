//! Measurement of a guest: limits on its resources, the watchdog thread, counts and traces of its
//! hypercalls.

mod calls;
mod limits;
mod trace;
mod watchdog;

pub(crate) use crate::monitor::Limit;
pub(crate) use calls::Counter;
pub use calls::{Calls, Tally};
pub use limits::Limits;
pub(crate) use limits::{LimitedConsole, Verdict};
pub(crate) use trace::Trace;
pub(crate) use watchdog::Watchdog;
