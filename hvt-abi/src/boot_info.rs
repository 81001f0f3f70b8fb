//! Boot information that the tender passes to the guest at entry.

use core::mem::{offset_of, size_of};

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Gpa;

/// Maximum length of the command line in bytes, including its terminating NUL.
pub const CMDLINE_SIZE: usize = 8192;

/// Length in bytes of the part of [`BootInfo`] that exists in guests built before ring I/O.
pub const BOOT_INFO_SIZE_V2: usize = 40;

/// `struct hvt_boot_info`: the only argument of the guest's entry point. It lies at
/// [`BOOT_INFO_BASE`](crate::BOOT_INFO_BASE).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BootInfo {
    /// Size of guest memory in bytes.
    pub mem_size: u64,
    /// First address after the loaded guest image, page-aligned.
    pub kernel_end: Gpa,
    /// Frequency of the CPU's cycle counter in Hz (x86_64: TSC, aarch64: CNTVCT).
    pub cpu_cycle_freq: u64,
    /// Address of the command line, NUL-terminated, at most [`CMDLINE_SIZE`] bytes.
    pub cmdline: Gpa,
    /// Address of the guest's [manifest](crate::manifest), with the device properties filled in.
    pub mft: Gpa,
    /// [`Features`] that the tender offers.
    pub host_features: u32,
    /// [`Features`] that the guest accepts.
    pub guest_features: u32,
    /// Address of the network [ring](crate::ring), or 0 if there is no ring.
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
    /// Optional features that tender and guest negotiate through [`BootInfo`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        /// Network frames may use the [ring](crate::ring).
        const RING_IO = 1 << 0;
    }
}
