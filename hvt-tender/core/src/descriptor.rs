//! What a device asks of the host's operating system, so that a sandbox can allow that and no more.

use bitflags::bitflags;

bitflags! {
    /// What is done with a descriptor.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Uses: u16 {
        /// Read from where it stands, or the next message.
        const READ = 1 << 0;
        /// Write to where it stands, or a message.
        const WRITE = 1 << 1;
        /// Read from an offset.
        const READ_AT = 1 << 2;
        /// Write to an offset.
        const WRITE_AT = 1 << 3;
        /// Bring to the disk what was written.
        const SYNC = 1 << 4;
        /// Ask for its size and kind, and for where in it there is data.
        const STAT = 1 << 5;
        /// Meet others in this directory, through Unix sockets that keep messages apart (`SOCK_SEQPACKET`).
        const MEET = 1 << 6;
        /// Remove a file from this directory, before the guest's first instruction.
        const REMOVE = 1 << 7;
        /// Set the timer that it is (`timerfd_settime`).
        const TIMER = 1 << 8;
    }
}

/// A descriptor of the host that something holds, and what it does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// What is done with it.
    pub uses: Uses,
}

impl Descriptor {
    /// The descriptor `fd`, used like this.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn new(fd: impl std::os::fd::AsFd, uses: Uses) -> Self {
        use std::os::fd::AsRawFd;
        Self { number: fd.as_fd().as_raw_fd(), uses }
    }
}
