//! Sleeping on Redox: `poll`, which takes milliseconds.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::io;
use std::time::Duration;

use nix::poll::{PollFd, PollTimeout};

/// Does nothing.
pub(crate) fn prepare() {}

/// Waits for at most `timeout`, rounded up to milliseconds.
pub(crate) fn ppoll(fds: &mut [libc::pollfd], timeout: Duration) -> io::Result<libc::c_int> {
    let timeout = libc::c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX);
    // SAFETY: `fds` is a slice of initialised `pollfd`s.
    match unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) } {
        -1 => Err(io::Error::last_os_error()),
        ready => Ok(ready),
    }
}

/// Waits until one of these descriptors is ready, for at most `timeout`, made a whole number of milliseconds.
pub(crate) fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> nix::Result<libc::c_int> {
    let milliseconds = |timeout: Duration| timeout.as_nanos().div_ceil(1_000_000);
    let timeout = timeout.map(|timeout| PollTimeout::try_from(milliseconds(timeout)).unwrap_or(PollTimeout::MAX));
    nix::poll::poll(fds, timeout.unwrap_or(PollTimeout::NONE))
}
