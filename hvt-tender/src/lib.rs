//! Runs Solo5 HVT unikernels: on KVM, on the hypervisor of a Redox kernel, or in a sandboxed process.
//!
//! [`Unikernel`] loads a unikernel, takes its devices and runs it. Disks, networks and clocks can exist only in memory, so
//! that a test needs neither root nor interfaces of the host:
//!
//! ```
//! use std::time::Duration;
//! use hvt_tender::{Disk, Limits, Script, Unikernel};
//!
//! # let folder = tempfile::tempdir()?;
//! # std::env::set_current_dir(&folder)?;
//! # let script = Script::new().puts("ready\n").block_write("storage", 512, [7; 512]);
//! # std::fs::write("app.hvt", script.sleep(Duration::MAX).build())?;
//! let disk = Disk::empty(1 << 20);
//! let limits = Limits::new().wall_time(Duration::from_secs(10));
//! let guest = Unikernel::load("app.hvt")?.block("storage", disk.clone()).limits(limits).spawn()?;
//! guest.console().wait_for("ready", Duration::from_secs(5))?;
//! # while disk.contents()?[512] == 0 { std::thread::yield_now(); }
//! guest.kill();
//! guest.wait()?;
//! assert_eq!(disk.contents()?[512..1024], [7; 512]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | item | use |
//! |---|---|
//! | [`Unikernel`], [`Script`] | unikernel from a file, or made of a few hypercalls |
//! | [`Guest`], [`Output`], [`Outcome`] | handle of a running guest, record of a guest that has ended, and its end |
//! | [`Limits`] | limits of time, memory and output |
//! | [`Disk`], [`CapturedOutput`] | block device and console in memory; [`device`] has all devices and their traits |
//! | [`Link`], [`Switch`], [`Port`], [`Impairment`] | network in memory, with delays and losses |
//! | [`Host`], [`network::user`] | TCP/IP host in a test's network, and networking without privileges |
//! | [`VirtualTime`] | clock that moves when no guest has anything to do |
//! | [`CancelToken`] | request to end a run |
//! | [`sandbox`] | confinement of the threads that run guests |
//!
//! | feature (all are on by default) | contents |
//! |---|---|
//! | `process`, `kvm` | the backends of Linux |
//! | `user-net` | TCP/IP stack: `Host`, `network::user` |
//! | `gdb` | `Unikernel::debugger` |
//! | `cli` | the programs `hvt-tender` and `hvt-elftool` |
//!
//! The crate `hvt-core` has the parts that need no operating system: image, boot, hypercalls and the monitor loop.

// A build for another target, or without a feature, uses parts of these modules. The complete build finds dead code.
#![cfg_attr(
    not(all(feature = "cli", feature = "kvm", feature = "process", target_os = "linux", target_arch = "x86_64")),
    allow(dead_code, unreachable_pub, unused_imports, reason = "the complete build for x86_64 Linux uses it")
)]

#[cfg(not(any(target_os = "linux", target_os = "redox")))]
compile_error!("hvt-tender runs on Linux and Redox");

mod backend;
mod cancel;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod config;
mod core_dump;
mod debugger_port;
pub mod device;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod elftool;
mod error;
mod error_chain;
#[cfg(feature = "gdb")]
mod gdb;
mod guest;
mod host_file;
mod interrupted;
mod measure;
pub mod memory;
mod message;
pub mod network;
mod record_file;
mod ring;
mod script;
mod sys;
mod unikernel;
#[cfg(feature = "cli")]
mod usage;
mod virtual_time;

use hvt_core::{boot, descriptor, exit, hypercall, image, monitor, registers};

pub use backend::{BackendError, Unavailable, UnavailableReason};
pub use cancel::CancelToken;
pub use config::{BackendChoice, MemoryOutOfRange, NetRing};
pub use core_dump::CoreDump;
pub use device::{CapturedOutput, Disk};
pub use error::{RunPart, UnikernelError};
pub use error_chain::ErrorChain;
#[cfg(feature = "gdb")]
pub use gdb::Debugger;
pub use guest::{Guest, Output};
pub use hvt_core::boot::{BootError, CommandLineError};
pub use hvt_core::image::{Device, DeviceKind, ImageError, Manifest};
pub use hvt_core::monitor::{Failure, Limit, Outcome, Reason};
pub use hvt_core::{Exit, Vcpu};
pub use measure::{Calls, Limits, Tally};
pub use memory::MapError;
#[cfg(feature = "user-net")]
pub use network::Host;
pub use network::{Impairment, Link, Port, Switch};
pub use script::Script;
pub use sys::sandbox;
pub use unikernel::Unikernel;
pub use virtual_time::{Hold, VirtualTime};

/// Facts about the machine, for the tests and benchmarks of this package.
#[doc(hidden)]
pub mod machine;
