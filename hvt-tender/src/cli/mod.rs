//! The command line: what a user types becomes a run, and what went wrong becomes one line and a status.

mod args;
mod value;

pub use args::{Command, UsageError, parse};
