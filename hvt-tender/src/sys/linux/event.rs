//! Event descriptor made of an eventfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::interrupted::retry;

/// Descriptor that is readable once it has been [set](Self::set).
#[derive(Debug)]
pub(crate) struct Event(EventFd);

impl Event {
    /// An event that has not been set.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// As [`new`](Self::new), for a thread that [waits](Self::wait).
    pub(crate) fn blocking() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?))
    }

    /// Makes the descriptor readable. Safe in a signal handler.
    pub(crate) fn set(&self) {
        // Fails only if the counter is full, and then the descriptor is readable as well.
        let _ = self.0.write(1);
    }

    /// Makes the descriptor unreadable; returns whether it was readable. For events that do not block.
    pub(crate) fn clear(&self) -> bool {
        self.0.read().is_ok()
    }

    /// Waits until the event is set, and clears it; returns the number of times that it was set. For events that block.
    pub(crate) fn wait(&self) -> u64 {
        retry(|| self.0.read()).unwrap_or(0)
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
