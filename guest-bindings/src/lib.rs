//! What a Solo5 HVT unikernel written in Rust links.
//!
//! | what | where |
//! |---|---|
//! | entry point, start information, how to end | [`entry!`], [`StartInfo`], [`ExitStatus`], [`exit`], [`abort`] |
//! | devices the guest asks for | [`manifest!`](macro@manifest) |
//! | console | [`print!`], [`println!`], [`console`] |
//! | monotonic clock, wall clock, sleep | [`clock`], [`yield_until`] |
//! | block devices | [`Block`] |
//! | network devices | [`Net`] |
//! | thread-local storage | [`tls`] |
//! | the ABI underneath | [`abi`] |
#![cfg_attr(not(test), no_std)]
#![cfg_attr(test, allow(dead_code, reason = "a test on the host starts no guest"))]

mod arch;
mod block;
mod boot;
pub mod clock;
mod command_line;
pub mod console;
mod device;
mod exit;
mod hypercall;
mod layout;
#[doc(hidden)]
pub mod manifest;
mod net;
mod one_cpu;
mod poll;
#[cfg(not(test))]
mod runtime;
mod start;
pub mod tls;

pub use hvt_abi as abi;

pub use block::{Block, BlockInfo};
pub use device::{Error, Handle, HandleSet};
pub use exit::{ExitStatus, abort, exit};
pub use net::{Net, NetInfo};
pub use poll::yield_until;
pub use start::StartInfo;
