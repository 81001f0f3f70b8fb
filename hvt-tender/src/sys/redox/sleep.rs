//! Sleeping on Redox: `poll`, which takes milliseconds.

use std::io;
use std::time::Duration;

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
