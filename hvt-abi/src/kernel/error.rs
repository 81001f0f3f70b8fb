//! Errors of the operations.

use core::fmt;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Reason for the failure of an operation. Unless the variant's description states
        /// otherwise, a failed operation has no effect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum KernelError {
            $($(#[$doc])* $name = $number,)*
        }

        impl KernelError {
            /// Every error, in ascending order of the numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the error with the given number, or `None` if the number is unassigned.
            #[must_use]
            pub const fn from_u32(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for KernelError {
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
    /// The object has no operation with this number, or the kernel does not implement it.
    UnknownOperation = 2, "the kernel's hypervisor does not support this operation";
    /// An argument is malformed: a structure of the wrong size, a reserved field or bit that is not
    /// 0, an address or length that is not a multiple of 4 KiB, a range that is empty or wraps
    /// around, or empty permissions.
    BadArgument = 3, "an argument is malformed";
    /// The machine cannot run guests. [`Capabilities::obstacle`](super::Capabilities::obstacle)
    /// contains the reason.
    Unsupported = 4, "this machine cannot run guests";
    /// The current CPU could not be prepared: its virtualization extension is already in use, or it
    /// differs from the other CPUs.
    CpuUnavailable = 5, "this CPU cannot run guests: its virtualization extension is in use, or it differs from the other CPUs";
    /// The kernel is out of memory. The caller may retry the operation.
    OutOfMemory = 6, "the kernel is out of memory";
    /// A limit of the user is reached: number of VMs, number of vCPUs of a VM, or pinned memory
    /// ([`Capabilities`](super::Capabilities)).
    LimitReached = 7, "a limit is reached: number of virtual machines or virtual CPUs, or pinned memory";
    /// A page of the range is not private, writable, anonymous memory of the caller.
    NotOwnMemory = 8, "guest memory must be private, writable, anonymous memory of the caller";
    /// The range exceeds the guest-physical addresses that this machine can map.
    OutOfRange = 9, "the guest address exceeds the range that this machine can map";
    /// A page of the range is already mapped in the guest.
    AlreadyMapped = 10, "guest memory is already mapped at this address";
    /// A page of the range is not mapped in the guest.
    NotMapped = 11, "no guest memory is mapped at this address";
    /// The permissions contain both write and execute.
    WriteAndExecute = 12, "guest memory cannot be writable and executable at once";
    /// A vCPU is running, on this or another CPU. Pause the VM or interrupt the vCPU, then retry.
    Busy = 13, "a virtual CPU is running: pause the virtual machine first";
    /// The VM is paused.
    Paused = 14, "the virtual machine is paused";
    /// The vCPU has no register state yet.
    NoState = 15, "the virtual CPU has no registers yet";
    /// The vCPU has ended (see [`Exit::is_final`](super::Exit::is_final)).
    Ended = 16, "the virtual CPU has ended";
    /// The VM was destroyed.
    Destroyed = 17, "the virtual machine was destroyed";
    /// The structure that belongs to the operation is not in the caller's memory.
    BadAddress = 18, "the argument is not in the caller's memory";
}

impl core::error::Error for KernelError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for error in KernelError::ALL {
            assert_eq!(KernelError::from_u32(*error as u32), Some(*error));
        }
        assert_eq!(KernelError::from_u32(0), None);
        assert_eq!(KernelError::from_u32(KernelError::ALL.len() as u32 + 1), None);
    }
}
