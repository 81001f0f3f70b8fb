//! Cases specific to x86_64.

pub mod cpu;
pub mod exception;
pub mod memory;
pub mod port;
