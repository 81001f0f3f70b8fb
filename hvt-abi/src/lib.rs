//! The contracts of the Solo5 hardware virtualized tender (HVT), as plain data.
//!
//! A **guest** (unikernel) and a **tender** (monitor) agree on a file format, a memory map, the state of the virtual
//! CPU at entry, and a small set of hypercalls. This crate holds those facts and no behaviour: sizes and offsets are
//! proven at compile time against the C layout of Solo5 v0.12, ABI version 2.
//!
//! | module | what is agreed on |
//! |---|---|
//! | [`note`] | the ELF notes that say "I am an HVT guest of version 2" and carry the manifest |
//! | [`manifest`] | the devices a guest asks for, and what the tender answers |
//! | [`boot_info`] | what the guest is told at entry |
//! | [`hypercall`] | numbers, argument structures and results of the eight hypercalls |
//! | [`ring`] | the shared ring that carries network frames without a hypercall |
//! | [`kernel`] | what a monitor asks of the kernel that runs the guest |
//! | [`x86_64`], [`aarch64`] | per architecture: memory map, entry state, how a hypercall is made |
//!
//! Every structure is `repr(C)` and converts to and from bytes through [`zerocopy`], so that no user of this crate
//! needs a cast. All integers are little endian on every supported architecture.
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

/// Version of the HVT ABI described here, as found in a guest's [`note::Abi1`].
pub const ABI_VERSION: u32 = 2;

/// Lowest guest address at which a guest's segments may lie.
pub const GUEST_MIN_BASE: Gpa = Gpa(0x10_0000);

/// First guest address that a guest may touch; everything below is not mapped.
///
/// The tender keeps its page tables and descriptor tables below. From here to [`GUEST_MIN_BASE`] the guest sees
/// read-only memory: [`BootInfo`], the manifest and the command line; on aarch64 also the
/// [exception vectors](aarch64::VECTORS) that it starts with.
pub const GUEST_VISIBLE_BASE: Gpa = Gpa(0x1_0000);

/// Where [`BootInfo`] lies; the manifest and the command line follow it.
pub const BOOT_INFO_BASE: Gpa = GUEST_VISIBLE_BASE;

/// Guest memory comes in multiples of this many bytes (2 MiB).
pub const MEM_GRANULE: u64 = 0x20_0000;

/// Largest guest memory in bytes (4 GiB): guest pointers travel in 32 bits.
pub const MEM_MAX: u64 = 0x1_0000_0000;

/// Size of a small page in bytes, on both architectures.
pub const PAGE_SIZE: u64 = 0x1000;
