//! The three standard streams.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, IntoRawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::signals;

/// Opens `/dev/null` in place of each closed standard stream. Otherwise the next opened file would
/// get the stream's number and receive text meant for the user.
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
        // A file gets the lowest free number, so it replaces the missing stream. It stays open.
        let _ = File::options().read(true).write(true).open("/dev/null")?.into_raw_fd();
    }
    Ok(())
}

/// Writes all of `text` to the standard output. Waits for a reader until a signal arrives.
pub(super) fn print(text: &str) -> io::Result<()> {
    /// Milliseconds after which the loop checks for a signal that arrived right before the wait.
    const LOOK: u16 = 20;
    /// Bytes that a pipe ready for writing takes without blocking (`PIPE_BUF`; pipe(7)).
    const PIECE: usize = 4096;
    let mut stdout = io::stdout();
    for piece in text.as_bytes().chunks(PIECE) {
        loop {
            match poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(LOOK)) {
                Ok(0) | Err(Errno::EINTR) if signals::received().is_some() => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        stdout.write_all(piece)?;
        stdout.flush()?;
    }
    Ok(())
}
