//! Interface to the operating system: the same functions for each supported system.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "redox")]
mod redox;

#[cfg(target_os = "linux")]
pub(crate) use linux::{host_limit, sleep};
#[cfg(target_os = "redox")]
pub(crate) use redox::{host_limit, sleep};
