//! Binding of the interface to the Redox kernel.
//!
//! The hypervisor is a kernel scheme. Handles are file descriptors. An operation is one `SYS_CALL`.
//!
//! | action | system call |
//! |---|---|
//! | open the hypervisor | open [`PATH`], or [`PATH_IN_SYS`] of scheme `sys` in a user space without the scheme's name, read-write; uid 0 only |
//! | create a VM | `dup` of the hypervisor with the name [`VM`] |
//! | create a vCPU | `dup` of a VM with the name [`VCPU`] |
//! | an operation | `SYS_CALL` on the descriptor, metadata = \[[`Operation`](super::Operation)\], payload = the argument or result structure, exactly of its size, or empty. Flags: READ for a structure that the kernel writes, WRITE for a structure that the kernel reads, none without a payload |
//! | `Run` without metadata, which is faster | `SYS_READ2` (or `SYS_READ`) of 0 bytes on a vCPU; returns 0, and the exit is in the run page |
//! | map the [`RunPage`](super::RunPage) | `fmap` of a vCPU: offset 0, size 4096, PROT_READ \| PROT_WRITE, MAP_SHARED |
//! | close | `close` |
//!
//! Metadata words after the first are reserved and must be 0 if present. A successful operation
//! returns the value in the [table](super#objects). A failed operation returns `-errno`; [`errno`]
//! and [`error`] convert between the two forms. The kernel's general errors also occur: EBADF for
//! an invalid descriptor, and errors such as EMFILE from `dup`.
//!
//! A run page may stay mapped after its vCPU is closed. The page is then ordinary memory.

use super::KernelError;

/// Path of the hypervisor on a full Redox system: the root of the scheme.
pub const PATH: &str = "/scheme/hvt";
/// Path of the hypervisor within scheme `sys`, `/scheme/sys/hvt`. It is for a user space that does
/// not map the scheme's name.
pub const PATH_IN_SYS: &str = "hvt";
/// Number of the scheme among the kernel's global schemes.
pub const SCHEME_ID: usize = 12;
/// Name passed to `dup` to create a VM.
pub const VM: &str = "vm";
/// Name passed to `dup` to create a vCPU.
pub const VCPU: &str = "vcpu";

/// Redox error number of each [`KernelError`], in the order of [`KernelError::ALL`]. No two errors share a
/// number.
const NUMBERS: [(KernelError, i32); 18] = [
    (KernelError::NotPermitted, 1),      // EPERM
    (KernelError::UnknownOperation, 38), // ENOSYS
    (KernelError::BadArgument, 22),      // EINVAL
    (KernelError::Unsupported, 19),      // ENODEV
    (KernelError::CpuUnavailable, 5),    // EIO
    (KernelError::OutOfMemory, 12),      // ENOMEM
    (KernelError::LimitReached, 122),    // EDQUOT
    (KernelError::NotOwnMemory, 13),     // EACCES
    (KernelError::OutOfRange, 34),       // ERANGE
    (KernelError::AlreadyMapped, 17),    // EEXIST
    (KernelError::NotMapped, 6),         // ENXIO
    (KernelError::WriteAndExecute, 95),  // EOPNOTSUPP
    (KernelError::Busy, 16),             // EBUSY
    (KernelError::Paused, 11),           // EAGAIN
    (KernelError::NoState, 61),          // ENODATA
    (KernelError::Ended, 108),           // ESHUTDOWN
    (KernelError::Destroyed, 116),       // ESTALE
    (KernelError::BadAddress, 14),       // EFAULT
];

/// Returns the error number that represents `error`.
#[must_use]
pub const fn errno(error: KernelError) -> i32 {
    // Error numbers are consecutive and start at 1.
    NUMBERS[error as usize - 1].1
}

/// Returns the hypervisor error that `errno` represents, or `None` for any other error number.
#[must_use]
pub const fn error(errno: i32) -> Option<KernelError> {
    let mut at = 0;
    while at < NUMBERS.len() {
        if NUMBERS[at].1 == errno {
            return Some(NUMBERS[at].0);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_a_number_of_its_own() {
        assert_eq!(NUMBERS.map(|(error, _)| error), *KernelError::ALL);
        for &known in KernelError::ALL {
            assert_eq!(error(errno(known)), Some(known));
        }
        assert_eq!(error(9), None);
    }
}
