//! Operations and their argument structures.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Gpa;

macro_rules! numbered {
    ($(#[$enum_doc:meta])* $type:ident: $int:ident { $($(#[$doc:meta])* $name:ident = $number:literal,)* }) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($int)]
        pub enum $type {
            $($(#[$doc])* $name = $number,)*
        }

        impl $type {
            /// Returns the variant with the given number, or `None` if the number is unassigned.
            #[must_use]
            pub const fn from_number(number: $int) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

numbered! {
    /// Numbers of the operations. The [table](super#objects) lists the object, the argument and the
    /// result of each operation.
    Operation: u64 {
        /// Hypervisor: writes [`Capabilities`].
        GetCapabilities = 1,
        /// VM: maps a range of the caller's memory in the guest ([`MemoryMapping`]).
        Map = 16,
        /// VM: unmaps a range of guest memory and unpins it ([`MemoryRange`] with permissions 0).
        /// Pages that are not mapped are skipped.
        Unmap = 17,
        /// VM: changes the permissions of a range ([`MemoryRange`]). Every page of the range must
        /// be mapped.
        Protect = 18,
        /// VM: stops the vCPUs of the VM.
        Pause = 19,
        /// VM: allows the vCPUs of the VM to run again.
        Resume = 20,
        /// VM: destroys the VM.
        Destroy = 21,
        /// vCPU: runs the guest until it exits.
        Run = 32,
        /// vCPU: makes the current `Run` exit with [`Exit::Interrupted`](super::Exit::Interrupted),
        /// or the next `Run` if the vCPU is not running.
        Interrupt = 33,
        /// vCPU: returns its [`VcpuState`](super::VcpuState).
        GetState = 34,
        /// vCPU: sets its [`VcpuState`](super::VcpuState) and discards an exception that was
        /// pending for the guest. The state is checked at the next VM entry
        /// ([`Exit::EntryFailure`](super::Exit::EntryFailure)).
        SetState = 35,
    }
}

numbered! {
    /// Virtualization extension of the CPU.
    Technology: u32 {
        /// None. [`Capabilities::obstacle`] contains the reason.
        None = 0,
        /// AMD Secure Virtual Machine (SVM) with nested paging.
        Svm = 1,
        /// Intel Virtual Machine Extensions (VMX) with extended page tables (EPT).
        Vmx = 2,
    }
}

numbered! {
    /// Reason why a machine cannot run guests.
    Obstacle: u32 {
        /// No obstacle: the machine can run guests.
        None = 0,
        /// The CPU has no virtualization extension, or an outer hypervisor hides it.
        NoExtension = 1,
        /// The firmware has disabled the extension. It can be enabled in the firmware setup.
        DisabledByFirmware = 2,
        /// The extension lacks a required feature.
        MissingFeature = 3,
        /// The kernel does not run the CPU in the required mode.
        Kernel = 4,
        /// The kernel had no memory to set up the extension.
        OutOfMemory = 5,
    }
}

/// Capabilities of the machine, and the limits and current use of the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Capabilities {
    /// Version of the interface: [`VERSION`](super::VERSION).
    pub version: u32,
    /// Virtualization extension: a [`Technology`].
    pub technology: u32,
    /// Reason why the machine cannot run guests: an [`Obstacle`].
    pub obstacle: u32,
    /// Number of bits of a guest-physical address, or 0 without a virtualization extension.
    pub address_bits: u32,
    /// Maximum number of bytes that one `Map`, `Unmap` or `Protect` processes.
    pub map_step: u64,
    /// Maximum amount of memory that the user's guests may pin, in bytes.
    pub pinned_limit: u64,
    /// Amount of memory that the user's guests currently pin, in bytes.
    pub pinned: u64,
    /// Maximum number of VMs of the user.
    pub vm_limit: u32,
    /// Current number of VMs of the user.
    pub vms: u32,
    /// Maximum number of vCPUs of a VM.
    pub vcpu_limit: u32,
    /// 1 if the hardware supports execute-only pages. Otherwise 0, and
    /// [`EXECUTE`](crate::Permissions::EXECUTE) implies read permission.
    pub execute_only: u32,
    /// Reserved; 0.
    pub reserved: [u32; 4],
}

/// Argument of [`Operation::Map`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryMapping {
    /// Guest-physical address of the mapping.
    pub gpa: Gpa,
    /// Address of the memory in the caller's address space.
    pub address: u64,
    /// Length in bytes.
    pub len: u64,
    /// [`Permissions`](crate::Permissions).
    pub permissions: u32,
    /// Reserved; must be 0.
    pub reserved: u32,
}

/// A range of guest memory: the argument of [`Operation::Unmap`] and [`Operation::Protect`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryRange {
    /// Guest-physical address of the first byte.
    pub gpa: Gpa,
    /// Length in bytes.
    pub len: u64,
    /// [`Permissions`](crate::Permissions).
    pub permissions: u32,
    /// Reserved; must be 0.
    pub reserved: u32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Capabilities>() == 72 && align_of::<Capabilities>() == 8);
    assert!(offset_of!(Capabilities, technology) == 4);
    assert!(offset_of!(Capabilities, obstacle) == 8);
    assert!(offset_of!(Capabilities, address_bits) == 12);
    assert!(offset_of!(Capabilities, map_step) == 16);
    assert!(offset_of!(Capabilities, pinned_limit) == 24);
    assert!(offset_of!(Capabilities, pinned) == 32);
    assert!(offset_of!(Capabilities, vm_limit) == 40);
    assert!(offset_of!(Capabilities, vms) == 44);
    assert!(offset_of!(Capabilities, vcpu_limit) == 48);
    assert!(offset_of!(Capabilities, execute_only) == 52);
    assert!(size_of::<MemoryMapping>() == 32 && align_of::<MemoryMapping>() == 8);
    assert!(offset_of!(MemoryMapping, address) == 8);
    assert!(offset_of!(MemoryMapping, len) == 16);
    assert!(offset_of!(MemoryMapping, permissions) == 24);
    assert!(size_of::<MemoryRange>() == 24 && align_of::<MemoryRange>() == 8);
    assert!(offset_of!(MemoryRange, len) == 8);
    assert!(offset_of!(MemoryRange, permissions) == 16);
};
