//! Network device that connects to another tender through a Unix socket.

mod meeting;
mod retry;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use hvt_abi::hypercall::FRAME_HEADER_SIZE;

use self::meeting::{Folder, PATIENCE, Plug, meet};
use self::retry::Retry;
use super::io::send_message;
use crate::device::io::{RateLimitedWarning, receive};
use crate::device::{Descriptor, DeviceError, Endpoint, Net, Pollable, Uses, random_mac};
use crate::error_chain::ErrorChain;
use crate::memory::GuestSlice;

pub use self::meeting::Problem;

/// Largest payload of a frame in bytes.
const MTU: u16 = 1500;

/// Longest wait in milliseconds for the other end to receive. It is longer than a busy machine
/// keeps a guest from its CPU.
const BACK_PRESSURE: u16 = 20;

/// Cable between the guests of two tenders, which meet at a path: the first tender listens there,
/// and the second one removes the socket file when it connects. It requires access to the folder
/// only.
///
/// Frames are messages of a `SOCK_SEQPACKET` socket. A guest that sends faster than the other end
/// receives is slowed down. If the other end receives nothing for 20 ms, frames are dropped. Frames
/// are also dropped while no other tender is connected. When the other tender exits, this one
/// listens at the path for the next.
///
/// Tenders lock the folder (`flock`) while they meet. If another program holds the lock, the guest
/// runs, and the cable is connected once the lock is free.
#[derive(Debug)]
pub struct UnixNet {
    endpoint: Arc<Endpoint>,
    epoll: Epoll,
    path: PathBuf,
    folder: Folder,
    plug: Plug,
    retry: Retry,
    mac: [u8; 6],
    warning: RateLimitedWarning,
    /// Longest wait in milliseconds for the other end to receive.
    back_pressure: u16,
    /// Set if the last such wait timed out.
    stuck: bool,
}

/// Event for the `epoll` instance, whose descriptor stays the same when the socket changes.
const READABLE: EpollFlags = EpollFlags::EPOLLIN;

impl UnixNet {
    /// Connects to the tender that listens at `path`, or listens there. The hardware address is
    /// `mac`, or by default a random one.
    ///
    /// # Errors
    /// Returns [`UnixNetError`] if no tender can be met at `path`. A folder that another program
    /// has locked is not an error.
    pub fn attach(path: impl Into<PathBuf>, mac: Option<[u8; 6]>) -> Result<Self, UnixNetError> {
        let path = path.into();
        match Self::unplugged(&path, mac) {
            Ok((mut this, plug)) => {
                match plug {
                    Some(plug) => this.plug_into(plug),
                    None => this.fail(&Problem::Locked),
                }
                Ok(this)
            }
            Err(problem) => Err(UnixNetError { path, problem }),
        }
    }

    /// Returns an unconnected cable, and the plug for it if the folder could be locked.
    fn unplugged(path: &Path, mac: Option<[u8; 6]>) -> Result<(Self, Option<Plug>), Problem> {
        let mac = mac.map_or_else(random_mac, Ok)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(io::Error::from)?;
        let endpoint = Arc::new(Endpoint::new(epoll.0.try_clone()?));
        let retry = Retry::new()?;
        epoll.add(&retry, EpollEvent::new(READABLE, 0)).map_err(io::Error::from)?;
        let folder = Folder::of(path).map_err(Problem::Folder)?;
        let plug = match meet(path, &folder, PATIENCE) {
            Ok(plug) => Some(plug),
            Err(Problem::Locked) => None,
            Err(problem) => return Err(problem),
        };
        let (path, warning) = (path.into(), RateLimitedWarning::default());
        let this = Self {
            endpoint,
            epoll,
            path,
            folder,
            plug: Plug::Loose,
            retry,
            mac,
            warning,
            back_pressure: BACK_PRESSURE,
            stuck: false,
        };
        Ok((this, plug))
    }

    /// Watches the socket of `plug` from now on.
    fn plug_into(&mut self, plug: Plug) {
        if let Some(socket) = self.plug.socket() {
            // Closing the socket would suffice, except that a process being forked may have a copy.
            let _ = self.epoll.delete(socket);
        }
        self.plug = plug;
        if let Some(socket) = self.plug.socket()
            && let Err(errno) = self.epoll.add(socket, EpollEvent::new(READABLE, 0))
        {
            log::error!("{}: cannot be watched: {errno}", self.path.display());
        }
    }

    /// Returns the socket to the other end, if connected.
    fn other_end(&mut self) -> Option<&OwnedFd> {
        if matches!(self.plug, Plug::Loose) && self.retry.is_due() {
            self.meet_again();
        }
        if let Plug::Waiting(listener) = &self.plug
            && let Some(socket) = listener.accept()
        {
            log::info!("{}: another tender has connected", self.path.display());
            self.plug_into(Plug::Connected(socket));
        }
        match &self.plug {
            Plug::Connected(socket) => Some(socket),
            Plug::Waiting(_) | Plug::Loose => None,
        }
    }

    /// Looks for another tender without waiting for the lock of the folder, because the guest would
    /// wait too.
    fn meet_again(&mut self) {
        match meet(&self.path, &self.folder, Duration::ZERO) {
            Ok(plug) => {
                self.warning.works();
                self.retry.clear();
                self.plug_into(plug);
            }
            Err(problem) => self.fail(&problem),
        }
    }

    /// Records that no tender can be met for now, and schedules a retry.
    fn fail(&mut self, problem: &Problem) {
        self.warning.fails(format_args!(
            "network socket {} {}; retrying",
            self.path.display(),
            ErrorChain::of(problem)
        ));
        self.retry.schedule();
        self.plug_into(Plug::Loose);
    }

    /// The other end is gone: the cable is ready for the next tender.
    fn hang_up(&mut self) {
        log::info!("{}: the other tender has disconnected", self.path.display());
        self.stuck = false;
        self.plug_into(Plug::Loose);
        self.meet_again();
    }

    /// Sends a frame to the other end, if connected.
    fn try_send(&mut self, frame: GuestSlice<'_>) -> io::Result<()> {
        let (stuck, back_pressure) = (self.stuck, PollTimeout::from(self.back_pressure));
        let Some(socket) = self.other_end() else { return Ok(()) };
        let mut sent = send_message(socket.as_fd(), frame);
        let is_full =
            |sent: &io::Result<usize>| sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        if is_full(&sent) && !stuck {
            // Meanwhile the other guest can use the CPU. A signal ends the wait.
            let _ = poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], back_pressure);
            sent = send_message(socket.as_fd(), frame);
        }
        self.stuck = is_full(&sent);
        sent.map(drop)
    }
}

impl Pollable for UnixNet {
    fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.endpoint)
    }
}

impl Net for UnixNet {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u16 {
        MTU
    }

    fn send(&mut self, frame: GuestSlice<'_>) -> Result<(), DeviceError> {
        if frame.len() < FRAME_HEADER_SIZE {
            return Err(DeviceError);
        }
        match self.try_send(frame) {
            Ok(()) => Ok(()),
            Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                Errno::EMSGSIZE => Err(DeviceError),
                // The other end is too slow: the frame is dropped.
                Errno::EAGAIN | Errno::ENOBUFS => Ok(()),
                _ => {
                    self.hang_up();
                    Ok(())
                }
            },
        }
    }

    fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError> {
        if into.is_empty() {
            return Ok(None);
        }
        let Some(socket) = self.other_end() else { return Ok(None) };
        match receive(socket.as_fd(), into) {
            Ok(received) if received > 0 => Ok(Some(received as u64)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Ok(_) | Err(_) => {
                self.hang_up();
                Ok(None)
            }
        }
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        vec![Descriptor::new(&self.folder, Uses::MEET), self.retry.descriptor()]
    }
}

/// Cable that cannot be attached.
#[derive(Debug)]
pub struct UnixNetError {
    /// Path at which the tenders meet.
    pub path: PathBuf,
    /// Reason for the failure.
    pub problem: Problem,
}

/// The reason completes the text, and its cause is the source.
impl fmt::Display for UnixNetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "network socket {} {}", self.path.display(), self.problem)
    }
}

impl Error for UnixNetError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.problem.source()
    }
}
