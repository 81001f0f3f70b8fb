//! The hypervisor that a kernel embeds.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(test)]
mod fake;
mod host;
mod hypervisor;
pub mod paging;
mod vcpu;
mod vm;

pub use host::{FRAME_SIZE, Frames, Host, Hpa, OutOfMemory};
pub use hypervisor::{Cpu, EnableError, Hypervisor, Unsupported};
pub use paging::{MapError, Permissions, Translation};
pub use vcpu::{BindError, Bound, Vcpu};
pub use vm::{AccessError, Vm};
