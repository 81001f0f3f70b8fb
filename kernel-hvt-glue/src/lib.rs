//! The hypervisor that a kernel embeds.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(test)]
mod fake;
mod host;
mod hypervisor;
mod memory;
pub mod paging;
mod tables;
mod vcpu;
mod vm;
mod x86_64;

pub use host::{FRAME_SIZE, Frames, Host, Hpa, OutOfMemory};
pub use hypervisor::{Cpu, EnableError, Hypervisor};
pub use paging::{MapError, Permissions, Translation};
pub use vcpu::{BindError, Bound, Vcpu};
pub use vm::{AccessError, Vm};
pub use x86_64::{
    capabilities::{Capabilities, Unsupported},
    svm::capabilities::SvmCapabilities,
    vmx::capabilities::VmxCapabilities,
};
