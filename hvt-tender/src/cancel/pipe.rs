//! Event descriptor made of a pipe.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

/// Descriptor that is readable once it is [set](Self::set).
#[derive(Debug)]
pub(super) struct Event {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Event {
    /// Creates an event that is not set.
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Self { reader, writer })
    }

    /// Makes the descriptor readable. Async-signal-safe.
    pub(super) fn set(&self) {
        // Fails only if the pipe is full, and then the descriptor is readable already.
        let _ = nix::unistd::write(&self.writer, &[1]);
    }

    /// Makes the descriptor unreadable. Returns whether it was readable.
    pub(super) fn clear(&self) -> bool {
        let mut was_set = false;
        while nix::unistd::read(&self.reader, &mut [0; 64]).is_ok_and(|read| read > 0) {
            was_set = true;
        }
        was_set
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
