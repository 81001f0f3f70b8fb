//! The operations, and the structures that go with them.

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
            /// The one with this number, if there is one.
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
    /// What is asked of an object, by number. The [table](super#objects) says of which, and what goes with it.
    Operation: u64 {
        /// Hypervisor: writes [`Capabilities`].
        GetCapabilities = 1,
        /// VM: shows the guest a range of the caller's memory ([`MemoryMapping`]).
        Map = 16,
        /// VM: takes guest memory away ([`MemoryRange`], whose permissions are 0) and unpins it. Pages that are not mapped
        /// are passed over.
        Unmap = 17,
        /// VM: changes what the guest may do in a range, all of which must be mapped ([`MemoryRange`]).
        Protect = 18,
        /// VM: stops its vCPUs.
        Pause = 19,
        /// VM: lets them run again.
        Resume = 20,
        /// VM: ends it.
        Destroy = 21,
        /// vCPU: runs the guest until it exits.
        Run = 32,
        /// vCPU: makes it exit with [`Exit::Interrupted`](super::Exit::Interrupted), or not start next time.
        Interrupt = 33,
        /// vCPU: writes its [`VcpuState`](super::VcpuState).
        GetState = 34,
        /// vCPU: takes a [`VcpuState`](super::VcpuState). An exception that the guest was about to get is forgotten. The
        /// state is checked when the guest is next entered ([`Exit::EntryFailure`](super::Exit::EntryFailure)).
        SetState = 35,
    }
}

numbered! {
    /// The extension of the CPU that runs guests.
    Technology: u32 {
        /// None: [`Capabilities::obstacle`] says why.
        None = 0,
        /// AMD: Secure Virtual Machine, with nested paging.
        Svm = 1,
        /// Intel: Virtual-Machine Extensions, with extended page tables.
        Vmx = 2,
    }
}

numbered! {
    /// Why a machine cannot run guests.
    Obstacle: u32 {
        /// It can.
        None = 0,
        /// The CPU offers no virtualization, or a hypervisor above hides it.
        NoExtension = 1,
        /// The firmware has disabled it: enable it in the machine's setup.
        DisabledByFirmware = 2,
        /// A part of the extension that is needed is missing.
        MissingFeature = 3,
        /// The kernel does not run the CPU in the mode that is needed.
        Kernel = 4,
        /// The kernel had no memory to set it up.
        OutOfMemory = 5,
    }
}

/// What the machine can do, and what the user may still use of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Capabilities {
    /// [`VERSION`](super::VERSION) of the interface.
    pub version: u32,
    /// [`Technology`].
    pub technology: u32,
    /// [`Obstacle`].
    pub obstacle: u32,
    /// Bits of a guest-physical address; 0 where there is no technology.
    pub address_bits: u32,
    /// The most that one `Map`, `Unmap` or `Protect` does, in bytes.
    pub map_step: u64,
    /// How much memory the user's guests may have, in bytes.
    pub pinned_limit: u64,
    /// How much they have now, in bytes.
    pub pinned: u64,
    /// How many VMs the user may have.
    pub vm_limit: u32,
    /// How many there are now.
    pub vms: u32,
    /// How many vCPUs a VM may have.
    pub vcpu_limit: u32,
    /// 1 where a page can be executed that cannot be read; else 0, and [`EXECUTE`](crate::Permissions::EXECUTE) implies to read.
    pub execute_only: u32,
    /// 0.
    pub reserved: [u32; 4],
}

/// What [`Operation::Map`] shows to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryMapping {
    /// Where the guest sees it.
    pub gpa: Gpa,
    /// Where the caller has it: an address in its own memory.
    pub address: u64,
    /// Length in bytes.
    pub len: u64,
    /// [`Permissions`](crate::Permissions).
    pub permissions: u32,
    /// 0.
    pub reserved: u32,
}

/// A range of guest memory, for [`Operation::Unmap`] and [`Operation::Protect`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryRange {
    /// The first address.
    pub gpa: Gpa,
    /// Length in bytes.
    pub len: u64,
    /// [`Permissions`](crate::Permissions).
    pub permissions: u32,
    /// 0.
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
