//! What the guest is told at entry.

use core::mem::{offset_of, size_of};

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Gpa;

/// Largest command line in bytes, its terminating NUL included.
pub const CMDLINE_SIZE: usize = 8192;

/// Length of the part of [`BootInfo`] that guests built before ring I/O know.
pub const BOOT_INFO_SIZE_V2: usize = 40;

/// `struct hvt_boot_info`: the sole argument of the guest's entry point, at [`BOOT_INFO_BASE`](crate::BOOT_INFO_BASE).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BootInfo {
    /// Size of guest memory in bytes.
    pub mem_size: u64,
    /// First address after the loaded guest, page aligned.
    pub kernel_end: Gpa,
    /// Frequency of the CPU's cycle counter (x86_64: TSC, aarch64: CNTVCT) in Hz.
    pub cpu_cycle_freq: u64,
    /// The command line, NUL-terminated, at most [`CMDLINE_SIZE`] bytes.
    pub cmdline: Gpa,
    /// The guest's [manifest](crate::manifest), devices filled in.
    pub mft: Gpa,
    /// What the tender offers: [`Features`] bits.
    pub host_features: u32,
    /// What the guest accepts: [`Features`] bits.
    pub guest_features: u32,
    /// The network [ring](crate::ring), 0 where there is none.
    pub net_ring: Gpa,
}

const _: () = {
    assert!(size_of::<BootInfo>() == 56);
    assert!(offset_of!(BootInfo, cpu_cycle_freq) == 16);
    assert!(offset_of!(BootInfo, mft) == 32);
    assert!(offset_of!(BootInfo, host_features) == BOOT_INFO_SIZE_V2);
    assert!(offset_of!(BootInfo, net_ring) == 48);
};

bitflags! {
    /// Abilities that tender and guest negotiate through [`BootInfo`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        /// Network frames may go through the [ring](crate::ring).
        const RING_IO = 1 << 0;
    }
}
