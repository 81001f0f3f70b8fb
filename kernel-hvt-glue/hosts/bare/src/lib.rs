//! Parts of the bare host that need no machine, so that `cargo test` can test them.
//!
//! The kernel itself is the binary of this package; `main.rs` describes its start.
#![no_std]

#[cfg(test)]
extern crate std;

extern crate alloc;

pub mod frames;
pub mod options;
pub mod rtc;
