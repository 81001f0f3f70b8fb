//! A virtual CPU of the hypervisor in a kernel: the client side of [`hvt_abi::kernel`].
//!
//! | module | contents |
//! |---|---|
//! | [`calls`] | the calls of the kernel, as a trait |
//! | [`guest`] | a virtual machine with one virtual CPU, over these calls |
//!
//! Guest memory is memory of the calling process, which the kernel pins and shows to the guest. The kernel's second-level
//! page tables enforce the guest's permissions, so that no page tables of the guest make data executable or code writable.
//! The tender's pages below [`GUEST_VISIBLE_BASE`](hvt_abi::GUEST_VISIBLE_BASE) stay writable, because the CPU writes there
//! for the guest.

pub mod calls;
#[cfg(any(test, feature = "fixtures"))]
pub mod fake;
pub mod guest;

pub use calls::{Calls, Errno, Page, Payload, Refused};
pub use guest::{Guest, Hypervisor, Interrupter};
