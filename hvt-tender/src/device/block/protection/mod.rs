//! Protection of a file or block device against writes.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod redox;

#[cfg(target_os = "linux")]
pub(super) use linux::{of_open, of_path, of_permissions};
#[cfg(not(target_os = "linux"))]
pub(super) use redox::{of_open, of_path, of_permissions};
