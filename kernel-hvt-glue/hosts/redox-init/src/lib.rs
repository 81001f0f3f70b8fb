//! Parts of the first process that need no kernel, so that `cargo test` can test them.
//!
//! The process itself is the binary of this package; `main.rs` describes its start.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod options;
