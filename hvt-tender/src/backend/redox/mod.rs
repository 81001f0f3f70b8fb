//! The Redox kernel's hypervisor: the guest runs on the CPU's own virtualization, and the kernel is asked through
//! [`hvt_abi::kernel`].
//!
//! | module | what is in it |
//! |---|---|
//! | [`calls`] | the few calls of the kernel that are needed, as a trait |
//! | [`guest`] | a virtual machine with one virtual CPU, over these calls |
//! | `machine` | a `Machine` of it, where there is an operating system's library |
//! | `system` | the calls of a whole Redox |
//!
//! The first two need no operating system's library: a first process uses them over system calls of its own. Guest memory is
//! memory of the calling process, which the kernel pins and shows to the guest. What a guest may do where is the
//! kernel's second-level page tables, so that no page tables of a guest's own make data executable or code writable;
//! the tender's pages below [`GUEST_VISIBLE_BASE`](hvt_abi::GUEST_VISIBLE_BASE) stay writable, because the CPU writes
//! there for the guest.

pub mod calls;
#[cfg(test)]
mod fake;
#[cfg(all(feature = "std", target_os = "redox"))]
mod frequency;
pub mod guest;
#[cfg(feature = "std")]
mod machine;
#[cfg(all(feature = "std", target_os = "redox"))]
mod system;

pub use calls::{Calls, Errno, Payload, Refused};
#[cfg(all(feature = "std", target_os = "redox"))]
pub use frequency::cycle_frequency;
pub use guest::{Guest, Hypervisor, Interrupter};
#[cfg(feature = "std")]
pub use machine::{Redox, RedoxMachine};
#[cfg(all(feature = "std", target_os = "redox"))]
pub use system::System;
