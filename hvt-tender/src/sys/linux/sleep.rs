//! Sleeping on Linux: `ppoll`.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use hvt_core::device::Sleep;

use crate::cancel::CancelToken;

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

impl Sleep for CancelToken {
    fn sleep(&self, nanoseconds: u64) {
        let (start, time) = (Instant::now(), Duration::from_nanos(nanoseconds));
        let mut stopped = [libc::pollfd { fd: self.event().as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        loop {
            let left = time.saturating_sub(start.elapsed());
            match ppoll(&mut stopped, left) {
                Ok(0) if !left.is_zero() => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }
}
