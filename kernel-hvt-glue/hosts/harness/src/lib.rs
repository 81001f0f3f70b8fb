//! What programs that run test unikernels without an operating system's libraries have in common: the bare host, and
//! the first process of a Redox kernel.
//!
//! | module | what is in it |
//! |---|---|
//! | [`pack`] | the unikernels that came along |
//! | [`clock`] | the time stamp counter as a clock |
//! | [`peer`] | who is at a wire's other end |
//! | [`monitor`] | a unikernel: loading it, and serving its exits |
//! | [`power`] | how an emulator is ended |
//! | [`suite`] | the conformance table |
//! | [`tally`] | how checks come out |
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
