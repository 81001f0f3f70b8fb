//! OS-independent core of a tender: loads a Solo5 HVT unikernel, runs it on a virtual CPU and
//! serves its hypercalls.
//!
//! | module | input → output |
//! |---|---|
//! | [`image`] | bytes of an ELF file → segments, entry point, manifest |
//! | [`boot`] | image and configuration → contents of guest memory, its [`MemoryMap`](memory::MemoryMap), entry state |
//! | [`memory`] | guest pointer → checked bytes of guest memory |
//! | [`vcpu`] | [`Vcpu::run`] → [`Exit`]: the trait that every backend implements |
//! | [`kernel`] | virtual CPU of an in-kernel hypervisor, through [`hvt_abi::kernel`] |
//! | [`hypercall`] | number, argument, guest memory → calls on devices → results in guest memory |
//! | [`device`] | console, clock, block, net: the traits, and their matching with the manifest |
//! | [`monitor`] | the loop over [`Vcpu::run`] and [`hypercall::serve`] → [`Outcome`](monitor::Outcome) |
//!
//! [`exit`], [`registers`], [`ring`] and [`descriptor`] are the types that these modules exchange. Kernels and first
//! processes that run guests link this crate alone; `hvt-tender` adds host devices, backends and the command line.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "std", feature = "fixtures"))]
extern crate std;

pub mod boot;
pub mod descriptor;
pub mod device;
pub mod exit;
pub mod hypercall;
pub mod image;
pub mod kernel;
pub mod memory;
pub mod monitor;
pub mod registers;
pub mod ring;
pub mod vcpu;

pub use exit::Exit;
pub use vcpu::Vcpu;
