//! Connection to a debugger.

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

/// A debugger that reads nothing for this long is treated as disconnected.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connection before its first use.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
}

impl Connection {
    /// Creates a connection over a blocking socket.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { stream: Stream::new(socket, PATIENCE)? })
    }

    /// Starts a thread that watches the connection while the guest runs. `confinement` is the
    /// thread's sandbox and its allowed system calls.
    ///
    /// # Errors
    /// Returns an [`io::Error`] if the host has no thread or descriptor left, or if the thread
    /// cannot be confined.
    pub(crate) fn watch(self, stop: &CancelToken, confinement: Option<(Sandbox, Calls)>) -> io::Result<Line> {
        let input = Input { stream: self.stream.try_clone()?, bytes: Vec::new() };
        let watcher = Watcher::start(self.stream.try_clone()?, stop.clone(), confinement)?;
        Ok(Line { input, output: Output { stream: self.stream, packet: Vec::new() }, watcher })
    }
}

/// Connection with a watcher thread.
pub(crate) struct Line {
    /// Bytes from the debugger.
    pub(super) input: Input,
    /// Bytes to the debugger.
    pub(super) output: Output,
    pub(super) watcher: Watcher,
}

impl Line {
    /// Allows the system calls that the guest's thread needs to talk to the debugger and to close
    /// the connection.
    pub(crate) fn system_calls(&self, calls: &mut Calls) {
        let [input, output, shutdown] = [&self.input.stream, &self.output.stream, &self.watcher.stream];
        calls.allow_connection(input.as_raw_fd(), output.as_raw_fd(), shutdown.as_raw_fd());
    }
}

/// Receiving half of the connection.
pub(super) struct Input {
    stream: Stream,
    /// Received bytes that are not consumed yet, the last byte first.
    bytes: Vec<u8>,
}

/// Result of waiting for the debugger.
pub(super) enum Heard {
    /// The next byte from the debugger.
    Byte(u8),
    /// No byte is available at the moment.
    Nothing,
    /// The debugger has disconnected.
    Gone,
    /// The run must end.
    Stopped,
}

impl Input {
    /// Returns whether received bytes are not consumed yet.
    pub(super) fn is_waiting(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Returns the next byte without waiting.
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

    /// Returns the next byte, and waits for it if necessary.
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
            // This conversation handles the packets that a pause was requested for.
            stop.unpause();
        }
    }

    fn poll(&self, fds: &mut [PollFd<'_>], timeout: PollTimeout) -> Result<i32, Errno> {
        match poll(fds, timeout) {
            Err(Errno::EINTR) => Ok(0),
            result => result,
        }
    }

    /// Reads the available bytes.
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

/// Sending half of the connection. Sends one packet at a time.
pub(super) struct Output {
    stream: Stream,
    packet: Vec<u8>,
}

impl Output {
    /// Answers the packet that kills the guest; `gdbstub` leaves the answer to its user. An error
    /// is ignored: the debugger may already have disconnected.
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

/// Thread that pauses the guest when bytes from the debugger arrive. Dropping this ends the thread
/// and the connection.
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
            // `start` waits for the result.
            let _ = begun.send(done);
            while !failed && orders.recv().is_ok() {
                let mut fds = [PollFd::new(watched.as_fd(), PollFlags::POLLIN)];
                while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
                // The flag is cleared first: a caller of `arm` that still finds the flag set is
                // certain to be paused.
                flag.store(false, Ordering::SeqCst);
                stop.pause();
            }
        };
        let thread = thread::Builder::new().name("hvt-debugger".into()).spawn(watch)?;
        confined.recv().map_err(io::Error::other)?.map_err(io::Error::other)?;
        Ok(Self { stream, armed, again: Some(again), thread: Some(thread) })
    }

    /// Called before the guest runs: makes the thread [pause](CancelToken::pause) the guest as soon
    /// as bytes from the debugger arrive. Spurious pauses are possible.
    pub(super) fn arm(&self) {
        if let (false, Some(again)) = (self.armed.swap(true, Ordering::SeqCst), &self.again) {
            // The thread lives as long as `self`.
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
