//! Redox kernel's hypervisor: the guest runs on the CPU's hardware virtualization. The tender calls
//! the kernel through [`hvt_core::kernel`].

#[cfg(target_os = "redox")]
mod frequency;
mod machine;
#[cfg(target_os = "redox")]
mod system;

#[cfg(target_os = "redox")]
pub use frequency::cycle_frequency;
pub use hvt_core::kernel::{Calls, Errno, Guest, Hypervisor, Interrupter, Payload, Refused};
pub use machine::{Redox, RedoxMachine};
#[cfg(target_os = "redox")]
pub use system::System;
