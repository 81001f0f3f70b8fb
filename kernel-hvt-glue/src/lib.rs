//! The hypervisor that a kernel embeds.
#![no_std]

extern crate alloc;

mod host;
mod hypervisor;
mod vcpu;
mod vm;

pub use host::{FRAME_SIZE, Frames, Host, Hpa, OutOfMemory};
pub use hypervisor::{Cpu, EnableError, Hypervisor, Unsupported};
pub use vcpu::{BindError, Bound, Vcpu};
pub use vm::{AccessError, MapError, Permissions, Translation, Vm};
