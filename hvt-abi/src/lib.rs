//! The Solo5 hardware virtualized tender (HVT) ABI as plain data.
//!
//! A **guest** (unikernel) and a **tender** (monitor) share a file format, a memory map, the state
//! of the virtual CPU at entry, and a small set of hypercalls. This crate defines their layouts and
//! constants and has no behaviour. Compile-time assertions check sizes and offsets against the C
//! layout of Solo5 v0.12, ABI version 2.
//!
//! | module | contents |
//! |---|---|
//! | [`note`] | ELF notes that identify a file as an HVT guest of ABI version 2 and carry the manifest |
//! | [`manifest`] | devices that the guest requires, and the properties that the tender fills in |
//! | [`boot_info`] | boot information that the tender passes to the guest's entry point |
//! | [`hypercall`] | numbers, argument structures and results of the eight hypercalls |
//! | [`ring`] | shared-memory ring that carries network frames without a hypercall |
//! | [`kernel`] | interface between a monitor and the kernel that runs the guest |
//! | [`x86_64`], [`aarch64`] | per architecture: memory map, entry state, hypercall mechanism |
//!
//! Every structure is `repr(C)` and converts to and from bytes through [`zerocopy`], so users of
//! this crate need no casts. All integers are little-endian on every supported architecture.
#![no_std]

pub mod aarch64;
mod address;
pub mod boot_info;
pub mod hypercall;
pub mod kernel;
pub mod manifest;
pub mod note;
mod permissions;
pub mod ring;
pub mod x86_64;

/// The architecture that this crate was compiled for.
#[cfg(target_arch = "aarch64")]
pub use aarch64 as native;
pub use address::{Gpa, GuestRange};
pub use boot_info::BootInfo;
pub use permissions::Permissions;
/// The architecture that this crate was compiled for.
#[cfg(target_arch = "x86_64")]
pub use x86_64 as native;

#[cfg(not(target_endian = "little"))]
compile_error!("the HVT ABI is defined for little-endian machines only");

/// Version of the HVT ABI that this crate describes. A guest states its version in [`note::Abi1`].
pub const ABI_VERSION: u32 = 2;

/// Lowest guest address that a loadable segment of the guest may occupy.
pub const GUEST_MIN_BASE: Gpa = Gpa(0x10_0000);

/// Lowest guest address that the guest may access. Everything below it is unmapped.
///
/// The tender keeps its page tables and descriptor tables below this address. From here to
/// [`GUEST_MIN_BASE`] the guest has read-only memory: [`BootInfo`], the manifest and the command
/// line; on aarch64 also the initial [exception vectors](aarch64::VECTORS).
pub const GUEST_VISIBLE_BASE: Gpa = Gpa(0x1_0000);

/// Address of [`BootInfo`]. The manifest and the command line follow it.
pub const BOOT_INFO_BASE: Gpa = GUEST_VISIBLE_BASE;

/// Granularity of the guest memory size in bytes (2 MiB): the size is a multiple of it.
pub const MEM_GRANULE: u64 = 0x20_0000;

/// Largest guest memory size in bytes (4 GiB). The limit exists because guest pointers are passed
/// in 32 bits.
pub const MEM_MAX: u64 = 0x1_0000_0000;

/// Size of a small page in bytes, on both architectures.
pub const PAGE_SIZE: u64 = 0x1000;
