//! The one conformance table: what each test unikernel is run with, and how it must end.
//!
//! Every backend runs every [`Case`] of [`SUITE`] that applies to it, and compares: all that are not about another
//! [`Architecture`], which [`ALL`] has as well. The table is plain data, so that a
//! test on a host, a kernel without an operating system and a program on Redox walk through the same one.
//!
//! | module | what is in it |
//! |---|---|
//! | [`case`] | the words: guest, devices, ends, console |
//! | [`disk`] | what stands on a block device before and after |
//! | [`frame`] | what the peer of a network device sends, and the answers it expects |
//! | [`cases`] | the cases, grouped by what they test |
#![no_std]

pub mod case;
pub mod cases;
pub mod disk;
pub mod frame;

pub use case::{Ability, Architecture, Case, Console, Device, DeviceKind, Disk, End, Link, Reason, When};
pub use cases::{ALL, SUITE};
pub use disk::Contents;
pub use frame::Exchange;
