//! Why an operation was refused.

use core::fmt;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Why an operation was refused. Unless it says otherwise, nothing has changed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Error {
            $($(#[$doc])* $name = $number,)*
        }

        impl Error {
            /// Every error, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The error with this number, if there is one.
            #[must_use]
            pub const fn from_u32(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for Error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $text,)*
                })
            }
        }
    };
}

errors! {
    /// The caller is not the superuser.
    NotPermitted = 1, "only the superuser may run guests";
    /// This object has no operation of that number, or this kernel does not know it.
    UnknownOperation = 2, "the kernel's hypervisor does not know this operation";
    /// An argument is malformed: a structure of another size, a reserved field or bit that is not 0, an address or a
    /// length that is no multiple of 4 KiB, an empty range, one that wraps around, no permission at all.
    BadArgument = 3, "an argument is malformed";
    /// The machine cannot run guests; [`Capabilities::obstacle`](super::Capabilities::obstacle) says why.
    Unsupported = 4, "this machine cannot run guests";
    /// The CPU that this thread runs on could not be prepared: somebody else uses its virtualization extension, or it
    /// differs from the others.
    CpuUnavailable = 5, "this CPU cannot run guests: its virtualization extension is in use, or differs from that of others";
    /// The kernel has no memory left. The same may be asked again.
    OutOfMemory = 6, "the kernel is out of memory";
    /// A limit of the user's: VMs, vCPUs of a VM, or pinned memory ([`Capabilities`](super::Capabilities)).
    LimitReached = 7, "a limit is reached: number of virtual machines or virtual CPUs, or pinned memory";
    /// A page of the range is not private, writable, anonymous memory of the caller's.
    NotOwnMemory = 8, "guest memory must be private, writable, anonymous memory of the caller's own";
    /// Beyond the guest-physical addresses that this machine can map.
    OutOfRange = 9, "the guest address is beyond what this machine can map";
    /// A page of the range is mapped in the guest already.
    AlreadyMapped = 10, "guest memory is mapped there already";
    /// A page of the range is not mapped in the guest.
    NotMapped = 11, "no guest memory is mapped there";
    /// Pages are never writable and executable at once.
    WriteAndExecute = 12, "guest memory cannot be writable and executable at once";
    /// A vCPU is running, here or on another CPU: pause the VM, or interrupt the vCPU, and try again.
    Busy = 13, "a virtual CPU is running: pause the virtual machine first";
    /// The VM is paused.
    Paused = 14, "the virtual machine is paused";
    /// The vCPU has no registers yet.
    NoState = 15, "the virtual CPU has no registers yet";
    /// The vCPU has ended.
    Ended = 16, "the virtual CPU has ended";
    /// The VM was destroyed.
    Destroyed = 17, "the virtual machine was destroyed";
    /// The structure that goes with the call does not lie in the caller's memory.
    BadAddress = 18, "the argument does not lie in the caller's memory";
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for error in Error::ALL {
            assert_eq!(Error::from_u32(*error as u32), Some(*error));
        }
        assert_eq!(Error::from_u32(0), None);
        assert_eq!(Error::from_u32(Error::ALL.len() as u32 + 1), None);
    }
}
