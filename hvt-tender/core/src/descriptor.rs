//! Host descriptors that a device uses, so that a sandbox can allow these and nothing else.

use bitflags::bitflags;

bitflags! {
    /// Operations on a descriptor.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Uses: u16 {
        /// Read from the file position, or receive a message (`read`).
        const READ = 1 << 0;
        /// Write at the file position, or send a message (`write`).
        const WRITE = 1 << 1;
        /// Read from an offset (`pread`).
        const READ_AT = 1 << 2;
        /// Write to an offset (`pwrite`).
        const WRITE_AT = 1 << 3;
        /// Flush written data to the disk (`fdatasync`).
        const SYNC = 1 << 4;
        /// Query size and kind, and the ranges that hold data.
        const STAT = 1 << 5;
        /// Connect to peers in this directory through Unix sockets that keep message boundaries
        /// (`SOCK_SEQPACKET`).
        const MEET = 1 << 6;
        /// Remove a file from this directory before the guest's first instruction.
        const REMOVE = 1 << 7;
        /// Set this timer (`timerfd_settime`).
        const TIMER = 1 << 8;
    }
}

/// Open descriptor of the host and the operations on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Descriptor number.
    pub number: i32,
    /// Operations on the descriptor.
    pub uses: Uses,
}

impl Descriptor {
    /// Describes `fd`, used for `uses`.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn new(fd: impl std::os::fd::AsFd, uses: Uses) -> Self {
        use std::os::fd::AsRawFd;
        Self { number: fd.as_fd().as_raw_fd(), uses }
    }
}
