//! How the interface travels on the Redox kernel.
//!
//! The hypervisor is a kernel scheme. Handles are file descriptors; an operation is one `SYS_CALL`.
//!
//! | what | how |
//! |---|---|
//! | get the hypervisor | open [`PATH`], or [`PATH_IN_SYS`] of scheme `sys` where the name is not known, read-write; uid 0 only |
//! | create a VM | `dup` of the hypervisor with the name [`VM`] |
//! | create a vCPU | `dup` of a VM with the name [`VCPU`] |
//! | an operation | `SYS_CALL` on the descriptor, metadata = \[[`Operation`](super::Operation)\], payload = the structure that goes with it, exactly as long, or empty. Flags: READ for a structure that the kernel writes, WRITE for one that it reads, none without a payload |
//! | `Run`, without the detour through metadata | `SYS_READ2` (or `SYS_READ`) of 0 bytes on a vCPU; answers 0, and the exit is in the run page |
//! | map the [`RunPage`](super::RunPage) | `fmap` of a vCPU: offset 0, size 4096, PROT_READ \| PROT_WRITE, MAP_SHARED |
//! | close | `close` |
//!
//! Any other metadata word than the first is reserved, and 0 if there. An operation that succeeds answers what the
//! [table](super#objects) says; one that fails answers `-errno`, and [`errno`] and [`error`] translate. Errors of
//! the kernel's own come out as well: EBADF for a descriptor that is none, EMFILE and the like from `dup`.
//!
//! A run page may stay mapped after its vCPU is closed; it is then ordinary memory.

use super::Error;

/// Where a full Redox has the hypervisor: the root of the scheme.
pub const PATH: &str = "/scheme/hvt";
/// Where scheme `sys` has it, `/scheme/sys/hvt`: for a user space that does not know the scheme by name.
pub const PATH_IN_SYS: &str = "hvt";
/// The number of the scheme among the kernel's global ones.
pub const SCHEME_ID: usize = 12;
/// Name for `dup` that creates a VM.
pub const VM: &str = "vm";
/// Name for `dup` that creates a vCPU.
pub const VCPU: &str = "vcpu";

/// Error numbers of Redox, no two alike, each of the [`Error`] in the same place of [`Error::ALL`].
const NUMBERS: [(Error, i32); 18] = [
    (Error::NotPermitted, 1),      // EPERM
    (Error::UnknownOperation, 38), // ENOSYS
    (Error::BadArgument, 22),      // EINVAL
    (Error::Unsupported, 19),      // ENODEV
    (Error::CpuUnavailable, 5),    // EIO
    (Error::OutOfMemory, 12),      // ENOMEM
    (Error::LimitReached, 122),    // EDQUOT
    (Error::NotOwnMemory, 13),     // EACCES
    (Error::OutOfRange, 34),       // ERANGE
    (Error::AlreadyMapped, 17),    // EEXIST
    (Error::NotMapped, 6),         // ENXIO
    (Error::WriteAndExecute, 95),  // EOPNOTSUPP
    (Error::Busy, 16),             // EBUSY
    (Error::Paused, 11),           // EAGAIN
    (Error::NoState, 61),          // ENODATA
    (Error::Ended, 108),           // ESHUTDOWN
    (Error::Destroyed, 116),       // ESTALE
    (Error::BadAddress, 14),       // EFAULT
];

/// The error number that stands for `error`.
#[must_use]
pub const fn errno(error: Error) -> i32 {
    // The numbers of the errors count from 1, without a gap.
    NUMBERS[error as usize - 1].1
}

/// The error that `errno` stands for, if it is one of the hypervisor's.
#[must_use]
pub const fn error(errno: i32) -> Option<Error> {
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
        assert_eq!(NUMBERS.map(|(error, _)| error), *Error::ALL);
        for &known in Error::ALL {
            assert_eq!(error(errno(known)), Some(known));
        }
        assert_eq!(error(9), None);
    }
}
