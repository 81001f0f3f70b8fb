//! Common code of programs that run test unikernels without an operating system's libraries: the
//! bare host, and the first process of a Redox kernel.
//!
//! | module | contents |
//! |---|---|
//! | [`pack`] | archives with unikernels |
//! | [`clock`] | clock based on the time stamp counter |
//! | [`peer`] | peer at the far end of a wire |
//! | [`monitor`] | loading a unikernel, and serving its exits |
//! | [`power`] | ending the emulator |
//! | [`suite`] | the conformance table |
//! | [`tally`] | results of checks |
#![no_std]

#[cfg(test)]
extern crate std;

extern crate alloc;

pub mod clock;
pub mod monitor;
pub mod pack;
pub mod peer;
pub mod power;
pub mod suite;
pub mod tally;
