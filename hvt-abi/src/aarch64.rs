//! aarch64: memory map and how a hypercall is made.

use crate::Gpa;

/// Where the tender puts the level 0 table: the guest's first TTBR0_EL1.
pub const PGD_BASE: Gpa = Gpa(0x1000);
/// Where the tender puts the level 1 table.
pub const PUD_BASE: Gpa = Gpa(0x2000);
/// Where the tender puts the four level 2 tables, one for each GiB.
pub const PMD_BASE: Gpa = Gpa(0x3000);
/// Where the tender puts the level 3 table of the first 2 MiB; further ones follow.
pub const PTE_BASE: Gpa = Gpa(0x7000);

/// `AARCH64_MMIO_BASE`: first address of the device memory that carries hypercalls.
pub const MMIO_BASE: Gpa = Gpa(0x1_0000_0000);
/// `AARCH64_MMIO_SZ`: size of that memory in bytes.
pub const MMIO_SIZE: u64 = 0x4000_0000;
/// Hypercall *n* is a 32-bit store of its argument's address to [`MMIO_BASE`] plus *n* times this.
pub const HYPERCALL_STRIDE: u64 = 8;
/// `HVT_RING_KICK_MMIO_BASE`: a 32-bit store of a ring's number here wakes the tender's end of that ring.
pub const RING_KICK: Gpa = Gpa(0x1_0000_0100);

/// General-purpose registers, SP_EL1, PC and PSTATE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// X0 to X30.
    pub x: [u64; 31],
    /// SP_EL1.
    pub sp: u64,
    /// PC.
    pub pc: u64,
    /// PSTATE, laid out as SPSR_EL1.
    pub pstate: u64,
}
