//! The thread that a stack lives on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

/// Wakes a worker.
#[derive(Debug)]
pub(in crate::network) struct Bell {
    event: EventFd,
    over: AtomicBool,
}

impl Bell {
    pub(in crate::network) fn new() -> io::Result<Arc<Self>> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Arc::new(Self { event, over: AtomicBool::new(false) }))
    }

    /// Wakes the worker, now or when it next waits.
    pub(in crate::network) fn ring(&self) {
        // It fails only when the counter is full, and then the descriptor is readable as well.
        let _ = self.event.write(1);
    }

    /// Forgets what has rung so far.
    pub(in crate::network) fn silence(&self) {
        // It fails only when nothing has.
        let _ = self.event.read();
    }

    /// Whether the worker is to end.
    pub(in crate::network) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// A thread that ends when this is dropped, and has ended once it is.
#[derive(Debug)]
pub(in crate::network) struct Worker {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread, which must return once `bell` says that it [is over](Bell::is_over).
    pub(in crate::network) fn start(
        name: &str,
        bell: Arc<Bell>,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let thread = thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self { bell, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.bell.over.store(true, Ordering::SeqCst);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Waits until one of these descriptors is ready, for `timeout` at most.
pub(in crate::network) fn wait(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    match ppoll(fds, timeout.map(TimeSpec::from_duration), None) {
        // The caller looks again in any case.
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
