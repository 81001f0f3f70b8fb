//! A tender for Solo5 HVT unikernels: loads one, runs it on a backend, serves its hypercalls.
//!
//! Data walks through the rooms once:
//!
//! | room | what goes in and out |
//! |---|---|
//! | [`image`] | bytes of an ELF file → segments, entry point, manifest |
//! | [`boot`] | image and configuration → contents of guest memory, its [`MemoryMap`](memory::MemoryMap), entry state |
//! | [`backend`] | guest memory and entry state → `run()` → [`Exit`] |
//! | [`hypercall`] | number, argument, guest memory → calls on devices → results in guest memory |
//! | [`device`] | console, clock, block, net: traits, those of the host, and those in memory |
//! | [`network`] | links and switches in memory, whose ports are network devices |
//! | [`ring`] | frames from a ring in guest memory → calls on network devices, on a thread of its own |
//! | [`monitor`] | the loop over `run()` and `hypercall` |
//! | [`virtual_time`] | a clock that moves when the guests have nothing to do |
//! | [`sandbox`] | what the tender gives up before the guest's first instruction |
//! | [`core_dump`] | a guest that crashed → a file for a debugger |
//! | [`gdb`] | a debugger for a guest that runs |
//! | [`unikernel`] | the builder on top of it all |
//! | [`script`] | a unikernel of a few hypercalls, assembled on the spot |
//! | [`measure`] | limits of a guest and the thread that watches them, counts and a trace of its hypercalls |
//! | [`guest`] | handle of a guest that runs beside its caller, and the record that it leaves |
//!
//! [`elftool`] is a program of its own: it makes manifests and says what a unikernel was built for.
//!
//! [`memory`], [`exit`], [`cancel`] and [`descriptor`] are the words they speak. The rooms that need no operating system are
//! those of [`hvt_core`], which kernels that run guests themselves link alone.

// A part of a build uses parts of rooms: the build of all features has no dead code.
#![cfg_attr(
    not(all(feature = "cli", feature = "kvm", feature = "process")),
    allow(dead_code, unreachable_pub, unused_imports, reason = "other features use it")
)]

#[cfg(not(any(target_os = "linux", target_os = "redox")))]
compile_error!("hvt-tender runs on Linux and Redox");

pub mod backend;
#[cfg(all(feature = "cli", target_os = "linux"))]
pub mod cli;
/// The command line on Redox.
#[cfg(all(feature = "cli", target_os = "redox"))]
pub mod cli {
    mod args;
    mod command;
    mod devices;
    mod fault;
    mod log;
    mod option;
    mod personality;
    mod redox;
    mod signals;
    mod start;
    mod streams;
    mod table;
    mod value;

    pub use args::{Command, UsageError, parse};
    pub use command::{command, markdown};
    pub use redox::main;

    const FAILED: i32 = 1;
    const TIMED_OUT: i32 = 124;
}
pub mod cancel;
pub mod config;
pub mod core_dump;
mod debugger_port;
pub mod device;
#[cfg(feature = "cli")]
pub mod elftool;
mod error;
mod error_chain;
#[cfg(feature = "gdb")]
pub mod gdb;
pub mod guest;
mod host_file;
mod interrupted;
pub mod measure;
pub mod memory;
mod message;
pub mod network;
mod record_file;
pub mod ring;
pub mod script;
mod sys;
pub mod unikernel;
#[cfg(feature = "cli")]
mod usage;
pub mod virtual_time;

pub use error_chain::ErrorChain;
use hvt_core::registers;
pub use hvt_core::{Exit, Vcpu, boot, descriptor, exit, hypercall, image, monitor};
pub use sys::sandbox;
pub use unikernel::Unikernel;
pub use virtual_time::VirtualTime;
