//! Virtual CPU of an in-kernel hypervisor: the client side of [`hvt_abi::kernel`].
//!
//! | module | contents |
//! |---|---|
//! | [`calls`] | system calls to the kernel, as a trait |
//! | [`guest`] | virtual machine with one virtual CPU, built on these calls |
//!
//! Guest memory belongs to the calling process; the kernel pins it and maps it for the guest. The
//! kernel's second-level page tables enforce the guest's permissions, so that no page table of the
//! guest can make data executable or code writable. The tender's pages below
//! [`GUEST_VISIBLE_BASE`](hvt_abi::GUEST_VISIBLE_BASE) stay writable, because the CPU writes there
//! on the guest's behalf.

pub mod calls;
#[cfg(all(any(test, feature = "fixtures"), target_arch = "x86_64"))]
pub mod fake;
#[cfg(target_arch = "x86_64")]
pub mod guest;

pub use calls::{Calls, Errno, Page, Payload, Refused};
#[cfg(target_arch = "x86_64")]
pub use guest::{Guest, Hypervisor, Interrupter};
