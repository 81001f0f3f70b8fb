//! Measuring a guest: limits of its resources, the thread that watches them, counts and a trace of its hypercalls.

mod calls;
mod limits;
mod trace;
mod watchdog;

pub use crate::monitor::Limit;
pub(crate) use calls::Counter;
pub use calls::{Calls, Tally};
pub use limits::Limits;
pub(crate) use limits::{LimitedConsole, Verdict};
pub(crate) use trace::Trace;
pub(crate) use watchdog::{Watchdog, cpu_time};
