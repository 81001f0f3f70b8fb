//! Sleeping on Linux: `ppoll`.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::io;
use std::time::Duration;

use nix::poll::PollFd;
use nix::sys::time::TimeSpec;

/// Makes sleeps of the calling thread exact.
pub(crate) fn prepare() {
    // If the call fails, sleeps are less exact.
    let _ = nix::sys::prctl::set_timerslack(1);
}

/// Waits for at most `timeout`.
pub(crate) fn ppoll(fds: &mut [libc::pollfd], timeout: Duration) -> io::Result<libc::c_int> {
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: `fds` is a slice of initialised `pollfd`s, `timeout` outlives the call, and no signal mask is given.
    match unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, &raw const timeout, std::ptr::null()) } {
        -1 => Err(io::Error::last_os_error()),
        ready => Ok(ready),
    }
}

/// Waits until one of these descriptors is ready, for at most `timeout`.
pub(crate) fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> nix::Result<libc::c_int> {
    nix::poll::ppoll(fds, timeout.map(TimeSpec::from_duration), None)
}
