//! The three standard streams.

use std::fs::File;
use std::io;
use std::os::fd::IntoRawFd;

/// Opens those standard streams that are closed, to nothing. Whatever is opened next would otherwise get their numbers,
/// and what is meant for the user would end up in it.
pub(super) fn open_missing() -> io::Result<()> {
    let mut fds = [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO].map(|fd| libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    });
    // SAFETY: `fds` is an array of initialised `pollfd`s.
    while unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 0) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    for _ in fds.iter().filter(|fd| fd.revents & libc::POLLNVAL != 0) {
        // The lowest free number, and so the one that is missing, is what it gets. It stays open.
        let _ = File::options().read(true).write(true).open("/dev/null")?.into_raw_fd();
    }
    Ok(())
}
