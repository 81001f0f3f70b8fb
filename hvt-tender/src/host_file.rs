//! Opens files that the user names, which may be FIFOs.
//!
//! std repeats a call that a signal interrupts. Therefore only `poll` blocks here; it waits on the
//! [`CancelToken`] as well.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cancel::CancelToken;

/// Interval in milliseconds for retrying an open. No descriptor reports that a FIFO has got a
/// reader, so the open must be retried.
const RETRY: u16 = 20;

/// Opens a regular file for reading. Files of other kinds may be endless.
///
/// # Errors
/// Returns [`io::ErrorKind::InvalidInput`] if the path is not a regular file, and
/// [`io::ErrorKind::TimedOut`] if `stop` was requested.
pub(crate) fn open_regular(path: &Path, stop: Option<&CancelToken>) -> io::Result<File> {
    let no_file = || Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    // Checked before the open, because opening a device can have side effects.
    if !path.metadata()?.is_file() {
        return no_file();
    }
    let file = open(path, OpenOptions::new().read(true), stop)?;
    // Checked again, because the path may have been replaced in the meantime.
    if file.metadata()?.is_file() { Ok(file) } else { no_file() }
}

/// Opens a file with `O_NONBLOCK`. Waits for the reader of a FIFO and for the holder of a lease.
pub(crate) fn open(path: &Path, options: &mut OpenOptions, stop: Option<&CancelToken>) -> io::Result<File> {
    let options = options.custom_flags(libc::O_NONBLOCK);
    loop {
        let error = match options.open(path) {
            Ok(file) => return Ok(file),
            Err(error) => error,
        };
        let is_fifo = || path.metadata().is_ok_and(|found| found.file_type().is_fifo());
        let later = match error.raw_os_error() {
            // Another process holds a lease on the file and has been asked to release the lease
            // (fcntl(2)).
            Some(libc::EWOULDBLOCK) => true,
            Some(libc::ENXIO) => is_fifo(),
            _ => false,
        };
        if !later {
            return Err(error);
        }
        wait(stop, None, PollTimeout::from(RETRY))?;
    }
}

/// Waits until `file` is writable, or for `timeout`.
///
/// # Errors
/// Returns [`io::ErrorKind::TimedOut`] if `stop` was requested and the file is not writable.
pub(crate) fn wait(stop: Option<&CancelToken>, file: Option<BorrowedFd<'_>>, timeout: PollTimeout) -> io::Result<()> {
    let stop = stop.map(|stop| PollFd::new(stop.event(), PollFlags::POLLIN));
    let file = file.map(|file| PollFd::new(file, PollFlags::POLLOUT));
    let mut fds: Vec<_> = file.into_iter().chain(stop.clone()).collect();
    match poll(&mut fds, timeout) {
        Ok(0) | Err(Errno::EINTR) => return Ok(()),
        Ok(_) => {}
        Err(errno) => return Err(errno.into()),
    }
    // A writable file comes first in `fds`, before the cancel token.
    let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
    if fds.iter().position(ready) == Some(fds.len() - 1) && stop.is_some() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "stopped while waiting for its reader"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    #[test]
    fn only_regular_files_are_opened_for_reading() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for path in [Path::new("/dev/null"), folder.path(), &fifo] {
            assert_eq!(open_regular(path, None).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
