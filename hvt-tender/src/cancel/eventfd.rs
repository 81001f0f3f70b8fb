//! Event descriptor made of a Linux eventfd(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Descriptor that is readable once it is [set](Self::set).
#[derive(Debug)]
pub(super) struct Event(OwnedFd);

impl Event {
    /// Creates an event that is not set.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?.into()))
    }

    /// Makes the descriptor readable. Async-signal-safe.
    pub(super) fn set(&self) {
        // Fails only if the counter is full, and then the descriptor is readable already.
        let _ = nix::unistd::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable. Returns whether it was readable.
    pub(super) fn clear(&self) -> bool {
        nix::unistd::read(&self.0, &mut [0; 8]).is_ok()
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
