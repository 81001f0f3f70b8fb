//! The connection to a debugger.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::stream::Stream;
use crate::backend::CancelToken;
use crate::sandbox::{Calls, Sandbox};

/// A debugger that takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection, not yet used.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
}

impl Connection {
    /// A connection through this socket, which blocks.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { stream: Stream::new(socket, PATIENCE)? })
    }

    /// Has a thread watch it while the guest runs, which makes these system calls alone in this sandbox.
    ///
    /// # Errors
    /// When the host has no thread or descriptor left, or the thread cannot be confined.
    pub(crate) fn watch(self, stop: &CancelToken, confinement: Option<(Sandbox, Calls)>) -> io::Result<Line> {
        let input = Input { stream: self.stream.try_clone()?, bytes: Vec::new() };
        let watcher = Watcher::start(self.stream.try_clone()?, stop.clone(), confinement)?;
        Ok(Line { input, output: Output { stream: self.stream, packet: Vec::new() }, watcher })
    }
}

/// A connection that is watched.
pub(crate) struct Line {
    /// One direction of it.
    pub(super) input: Input,
    /// The other.
    pub(super) output: Output,
    pub(super) watcher: Watcher,
}

impl Line {
    /// Allows the system calls that the guest's thread makes to talk to the debugger, and to hang up.
    pub(crate) fn system_calls(&self, calls: &mut Calls) {
        calls.allow_on(libc::SYS_recvfrom, self.input.stream.as_raw_fd());
        calls.allow_on(libc::SYS_sendto, self.output.stream.as_raw_fd());
        calls.allow_on(libc::SYS_shutdown, self.watcher.stream.as_raw_fd());
    }
}

/// What the debugger says.
pub(super) struct Input {
    stream: Stream,
    /// What has come and was not taken yet, the last byte first.
    bytes: Vec<u8>,
}

/// What came of waiting for the debugger.
pub(super) enum Heard {
    /// The next byte of what it says.
    Byte(u8),
    /// It says nothing at the moment.
    Nothing,
    /// It is gone.
    Gone,
    /// The run is to end.
    Stopped,
}

impl Input {
    /// Whether something has come already that nobody has taken.
    pub(super) fn is_waiting(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The next byte that has come.
    pub(super) fn next(&mut self) -> Heard {
        if let Some(byte) = self.bytes.pop() {
            return Heard::Byte(byte);
        }
        match self.poll(&mut [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) {
            Ok(0) => Heard::Nothing,
            Ok(_) => self.read(),
            Err(_) => Heard::Gone,
        }
    }

    /// The next byte, waiting until it comes.
    pub(super) fn wait(&mut self, stop: &CancelToken) -> Heard {
        loop {
            if stop.requested() {
                return Heard::Stopped;
            }
            match self.next() {
                Heard::Nothing => {}
                heard => return heard,
            }
            let stream = PollFd::new(self.stream.as_fd(), PollFlags::POLLIN);
            if self.poll(&mut [stream, PollFd::new(stop.event(), PollFlags::POLLIN)], PollTimeout::NONE).is_err() {
                return Heard::Gone;
            }
            // What was meant for a guest that ran is answered by this conversation.
            stop.unpause();
        }
    }

    fn poll(&self, fds: &mut [PollFd<'_>], timeout: PollTimeout) -> Result<i32, Errno> {
        match poll(fds, timeout) {
            Err(Errno::EINTR) => Ok(0),
            result => result,
        }
    }

    /// Reads what is there.
    fn read(&mut self) -> Heard {
        let mut some = [0; 4096];
        match self.stream.read(&mut some) {
            Ok(0) => Heard::Gone,
            Ok(len) => {
                self.bytes.extend(some[..len].iter().rev());
                self.bytes.pop().map_or(Heard::Nothing, Heard::Byte)
            }
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => Heard::Nothing,
            Err(_) => Heard::Gone,
        }
    }
}

/// What the debugger is told, a packet at a time.
pub(super) struct Output {
    stream: Stream,
    packet: Vec<u8>,
}

impl Output {
    /// Answers the packet that ends the guest, which `gdbstub` leaves to its user. Who does not wait for it has gone.
    pub(super) fn confirm(&mut self) {
        let _ = io::Write::write_all(&mut self.stream, b"$OK#9a");
    }
}

impl gdbstub::conn::Connection for Output {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.packet.push(byte);
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.packet.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let sent = io::Write::write_all(&mut self.stream, &self.packet);
        self.packet.clear();
        sent
    }
}

/// A thread that interrupts the guest when the debugger says something. Dropping it ends the thread, and the connection.
pub(super) struct Watcher {
    stream: Stream,
    armed: Arc<AtomicBool>,
    again: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    fn start(stream: Stream, stop: CancelToken, confinement: Option<(Sandbox, Calls)>) -> io::Result<Self> {
        let armed = Arc::new(AtomicBool::new(false));
        let (again, orders) = unbounded();
        let (begun, confined) = bounded(1);
        let (watched, flag) = (stream.try_clone()?, armed.clone());
        let watch = move || {
            let done = confinement.map_or(Ok(()), |(sandbox, calls)| sandbox.confine(calls));
            let failed = done.is_err();
            // Whoever starts this waits for it.
            let _ = begun.send(done);
            while !failed && orders.recv().is_ok() {
                let mut fds = [PollFd::new(watched.as_fd(), PollFlags::POLLIN)];
                while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
                // In this order: whoever finds it still armed will be paused.
                flag.store(false, Ordering::SeqCst);
                stop.pause();
            }
        };
        let thread = thread::Builder::new().name("hvt-debugger".into()).spawn(watch)?;
        confined.recv().map_err(io::Error::other)?.map_err(io::Error::other)?;
        Ok(Self { stream, armed, again: Some(again), thread: Some(thread) })
    }

    /// The guest is about to run: makes it [pause](CancelToken::pause) as soon as the debugger says something. It may pause
    /// for nothing as well.
    pub(super) fn arm(&self) {
        if let (false, Some(again)) = (self.armed.swap(true, Ordering::SeqCst), &self.again) {
            // The thread lives as long as this.
            let _ = again.send(());
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.again = None;
        self.stream.hang_up();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
