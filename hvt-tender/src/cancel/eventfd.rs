//! A descriptor that says that something has happened: an event of Linux.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// A descriptor that is readable once it has been [set](Self::set).
#[derive(Debug)]
pub(super) struct Event(OwnedFd);

impl Event {
    /// One that has not been set.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?.into()))
    }

    /// Makes it readable. Safe in a signal handler.
    pub(super) fn set(&self) {
        // Fails only when the counter is full, and then the descriptor is readable as well.
        let _ = nix::unistd::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Makes it unreadable; returns whether it was readable.
    pub(super) fn clear(&self) -> bool {
        nix::unistd::read(&self.0, &mut [0; 8]).is_ok()
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
