//! The parts of the first process that need no kernel, so that they are tested where `cargo test` runs.
//!
//! The process itself is the binary of this package; its `main.rs` says how it starts.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod options;
