//! Bindings for Solo5 HVT unikernels written in Rust.
//!
//! | topic | items |
//! |---|---|
//! | entry point, start information, termination | [`entry!`], [`StartInfo`], [`ExitStatus`], [`exit`], [`abort`] |
//! | devices that the guest requires | [`manifest!`](macro@manifest) |
//! | console | [`print!`], [`println!`], [`console`] |
//! | monotonic clock, wall clock, sleep | [`clock`], [`yield_until`] |
//! | block devices | [`Block`] |
//! | network devices | [`Net`] |
//! | heap | the range in [`StartInfo`], or a global allocator with the feature `alloc` |
//! | thread-local storage | [`tls`] |
//! | mutable statics | [`OneCpu`] |
//! | CPU-specific functions | on x86_64: the module `x86_64` |
//! | the underlying ABI | [`abi`] |
//!
//! # A complete guest
//!
//! `Cargo.toml`:
//!
//! ```toml
//! [package]
//! name = "greeter"
//! version = "0.1.0"
//! edition = "2024"
//!
//! [dependencies]
//! guest-bindings = { version = "0.1", features = ["alloc"] }
//!
//! [build-dependencies]
//! guest-bindings-build = "0.1"
//!
//! # The host cannot run a guest, so it has no tests of its own.
//! [[bin]]
//! name = "greeter"
//! path = "src/main.rs"
//! test = false
//! bench = false
//!
//! [profile.dev]
//! panic = "abort"
//!
//! [profile.release]
//! panic = "abort"
//! lto = true
//! ```
//!
//! `build.rs`:
//!
//! ```ignore
//! fn main() {
//!     guest_bindings_build::link();
//! }
//! ```
//!
//! `src/main.rs`:
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//!
//! extern crate alloc;
//!
//! use alloc::vec;
//! use guest_bindings::{Block, DeviceError, ExitStatus, StartInfo, println};
//!
//! guest_bindings::manifest! { block "storage" }
//! guest_bindings::entry!(main);
//!
//! fn main(start: &StartInfo) -> ExitStatus {
//!     println!("Hello, {}", start.arguments().next().unwrap_or("World"));
//!     match first_byte() {
//!         Ok(byte) => println!("The disk begins with {byte:#04x}"),
//!         Err(error) => {
//!             println!("The disk cannot be read: {error}");
//!             return ExitStatus::FAILURE;
//!         }
//!     }
//!     ExitStatus::SUCCESS
//! }
//!
//! fn first_byte() -> Result<u8, DeviceError> {
//!     let storage = Block::open("storage")?;
//!     let mut block = vec![0; storage.info().block_size];
//!     storage.read(0, &mut block)?;
//!     Ok(block[0])
//! }
//! ```
//!
//! `cargo build --release` creates `target/release/greeter`, an executable for a tender, not for
//! the host. The host's target (x86_64 or aarch64) is sufficient; no other target needs to be
//! installed. To build for the other architecture, pass cargo `--target aarch64-unknown-linux-gnu`
//! (or `x86_64-unknown-linux-gnu`) and name a C compiler for that architecture, which links the
//! guest, in `CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER`. The targets `aarch64-unknown-none`
//! and `x86_64-unknown-none` need no C compiler.
//!
//! # Environment of `main`
//!
//! The guest has one CPU and no interrupts, and it runs privileged (x86_64: CPL 0, aarch64: EL1).
//! From low to high addresses, its memory contains: the tender's tables (not accessible); the boot
//! information (read-only); from 1 MiB on the guest image; the variables of the first thread; the
//! heap; and the stack. [`StartInfo`] documents the size of the stack.
//!
//! An exception is reported on the console and terminates the guest with [`ExitStatus::ABORT`]. So
//! does a panic. The bindings print one line at the start. The option `--solo5:quiet` at the start
//! of the command line suppresses it.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(test, allow(dead_code, reason = "a test on the host starts no guest"))]

mod arch;
mod block;
mod boot;
pub mod clock;
mod command_line;
pub mod console;
mod device;
mod exit;
#[cfg(all(feature = "alloc", not(test)))]
mod heap;
mod hypercall;
mod layout;
#[doc(hidden)]
pub mod manifest;
mod net;
mod one_cpu;
mod poll;
mod ring;
#[cfg(not(test))]
mod runtime;
mod scale;
mod start;
pub mod tls;
#[cfg(all(target_arch = "x86_64", not(test)))]
pub mod x86_64;

pub use hvt_abi as abi;

pub use block::{Block, BlockInfo};
pub use device::{DeviceError, Handle, HandleSet};
pub use exit::{ExitStatus, abort, exit};
pub use net::{Net, NetInfo};
pub use one_cpu::OneCpu;
pub use poll::yield_until;
pub use start::{Start, StartInfo};
