//! Event descriptor made of a pipe.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::interrupted::retry;

/// Descriptor that is readable once it is [set](Self::set).
#[derive(Debug)]
pub(crate) struct Event {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Event {
    /// An event that has not been set.
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Self { reader, writer })
    }

    /// As [`new`](Self::new), for a thread that [waits](Self::wait).
    pub(crate) fn blocking() -> io::Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        Ok(Self { reader, writer })
    }

    /// Makes the descriptor readable. Async-signal-safe.
    pub(crate) fn set(&self) {
        // Fails only if the pipe is full, and then the descriptor is readable already.
        let _ = nix::unistd::write(&self.writer, &[1]);
    }

    /// Makes the descriptor unreadable; returns whether it was readable. For events that do not block.
    pub(crate) fn clear(&self) -> bool {
        let mut was_set = false;
        while nix::unistd::read(&self.reader, &mut [0; 64]).is_ok_and(|read| read > 0) {
            was_set = true;
        }
        was_set
    }

    /// Waits until the event is set, and clears it; returns the number of times that it was set. For events that block.
    pub(crate) fn wait(&self) -> u64 {
        retry(|| nix::unistd::read(&self.reader, &mut [0; 64])).unwrap_or(0) as u64
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
