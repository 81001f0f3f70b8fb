//! Converts the boot loader's information to the form that a Redox kernel expects: the parts that
//! need no machine.
//!
//! Layouts and rules follow the kernel's `src/startup/mod.rs` and `src/startup/memory.rs` (commit
//! 663e66410).
#![no_std]

#[cfg(test)]
extern crate std;

pub mod handover;
pub mod pack;
pub mod tables;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;
