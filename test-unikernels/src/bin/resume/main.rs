//! Handles exceptions and continues after them.
#![no_std]
#![no_main]

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
mod arch;

guest_bindings::manifest! {}
guest_bindings::entry!(arch::main);
