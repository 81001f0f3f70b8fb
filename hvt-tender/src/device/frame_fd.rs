//! Descriptor that carries one Ethernet frame per read and per write: a tap, a socket with message
//! boundaries, or a network scheme of Redox.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use hvt_abi::hypercall::FRAME_HEADER_SIZE;

use super::io::{RateLimitedWarning, receive, receive_behind, send, send_behind};
use super::{DeviceError, Endpoint};
use crate::memory::GuestSlice;

/// Largest size of the headers before a frame in bytes. A virtio header has 10, 12 or 20 bytes,
/// packet information 4.
pub(crate) const MAX_HEADERS: usize = 64;

/// Descriptor of frames, with rate-limited warnings about failed transfers.
#[derive(Debug)]
pub(crate) struct FrameFd {
    endpoint: Arc<Endpoint>,
    /// Name of the descriptor in the log.
    label: String,
    /// Number of bytes before each frame: zeros in sent frames, ignored in received frames.
    headers: usize,
    warning: RateLimitedWarning,
}

impl FrameFd {
    /// Wraps a non-blocking descriptor with `headers` bytes before each frame, at most
    /// [`MAX_HEADERS`].
    pub(crate) fn new(fd: OwnedFd, label: String, headers: usize) -> Self {
        Self { endpoint: Arc::new(Endpoint::new(fd)), label, headers, warning: RateLimitedWarning::default() }
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub(crate) fn send(&mut self, frame: GuestSlice<'_>) -> Result<(), DeviceError> {
        let label = &self.label;
        if frame.len() < FRAME_HEADER_SIZE {
            self.warning.fails(format_args!("{label}: a frame of {} bytes is too short", frame.len()));
            return Err(DeviceError);
        }
        let fd = self.endpoint.as_fd();
        let sent = match self.headers {
            0 => send(fd, frame),
            headers => send_behind(fd, &[0; MAX_HEADERS][..headers], frame),
        };
        match sent {
            Ok(sent) if sent as u64 == frame.len() => {
                self.warning.works();
                Ok(())
            }
            Ok(sent) => {
                self.warning.fails(format_args!("{label}: sent {sent} bytes of a frame of {}", frame.len()));
                Err(DeviceError)
            }
            Err(error) if is_drop(&error) => {
                self.warning.fails(format_args!("{label}: drops frames: {error}"));
                Ok(())
            }
            Err(error) => {
                self.warning.fails(format_args!("{label}: cannot send a frame of {} bytes: {error}", frame.len()));
                Err(DeviceError)
            }
        }
    }

    /// Receives one frame into `into`. Returns its length in bytes, or `None` if no frame is waiting.
    pub(crate) fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError> {
        if into.is_empty() {
            return Ok(None);
        }
        let fd = self.endpoint.as_fd();
        let received = match self.headers {
            0 => receive(fd, into),
            headers => receive_behind(fd, &mut [0; MAX_HEADERS][..headers], into),
        };
        match received {
            Ok(0) => {
                self.endpoint.set_gone();
                Ok(None)
            }
            Ok(received) => Ok(Some(received as u64)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => {
                self.warning.fails(format_args!("{}: cannot receive: {error}", self.label));
                Err(DeviceError)
            }
        }
    }

    /// Returns a second handle of the same descriptor, for another thread.
    pub(crate) fn second_end(&self) -> Self {
        let (endpoint, label) = (Arc::clone(&self.endpoint), self.label.clone());
        Self { endpoint, label, headers: self.headers, warning: RateLimitedWarning::default() }
    }

    #[cfg(test)]
    pub(crate) fn is_failing(&self) -> bool {
        self.warning.is_failing()
    }

    #[cfg(test)]
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// Returns the number of bytes before each frame.
    pub(crate) fn headers(&self) -> usize {
        self.headers
    }
}

/// Returns whether an error of sending means that the network dropped a frame: a queue is full, or
/// the interface is down (a tap then returns `EIO`).
fn is_drop(error: &io::Error) -> bool {
    const DROPS: [i32; 4] = [libc::EAGAIN, libc::ENOBUFS, libc::ENETDOWN, libc::EIO];
    error.raw_os_error().is_some_and(|errno| DROPS.contains(&errno))
}
