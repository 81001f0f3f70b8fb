//! The parts of the bare host that need no machine, so that they are tested where `cargo test` runs.
//!
//! The kernel itself is the binary of this package; its `main.rs` says how it starts.
#![no_std]

#[cfg(test)]
extern crate std;

extern crate alloc;

pub mod frames;
pub mod options;
pub mod rtc;
