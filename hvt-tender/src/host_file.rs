//! Files of the host that are opened by names of the user's, which may lead to FIFOs.
//!
//! std repeats a call that a signal has interrupted. So nothing here blocks in a system call other than `poll`, which
//! watches the [`Stop`] as well.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::stop::Stop;

/// Interval in milliseconds at which an open that cannot succeed yet is tried again: no descriptor tells that a FIFO has
/// got a reader.
const RETRY: u16 = 20;

/// Opens a regular file for reading. Other kinds of files may have no end.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if it is no regular file; [`io::ErrorKind::TimedOut`] if `stop` was requested.
pub(crate) fn open_regular(path: &Path, stop: Option<&Stop>) -> io::Result<File> {
    let no_file = || Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    // Looked at before opening, because to open a device may do something.
    if !path.metadata()?.is_file() {
        return no_file();
    }
    let file = open(path, OpenOptions::new().read(true), stop)?;
    // The name may lead elsewhere by now.
    if file.metadata()?.is_file() { Ok(file) } else { no_file() }
}

/// Opens without blocking in the system call, and waits for the reader of a FIFO and the holder of a lease.
fn open(path: &Path, options: &mut OpenOptions, stop: Option<&Stop>) -> io::Result<File> {
    let options = options.custom_flags(libc::O_NONBLOCK);
    loop {
        let error = match options.open(path) {
            Ok(file) => return Ok(file),
            Err(error) => error,
        };
        let is_fifo = || path.metadata().is_ok_and(|found| found.file_type().is_fifo());
        let later = match error.raw_os_error() {
            // Another process holds a lease of the file, and has been asked to give it back (fcntl(2)).
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

/// Waits until `file` can be written, or for `timeout`.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] if `stop` was requested and the file cannot be written at once.
fn wait(stop: Option<&Stop>, file: Option<BorrowedFd<'_>>, timeout: PollTimeout) -> io::Result<()> {
    let stop = stop.map(|stop| PollFd::new(stop.event(), PollFlags::POLLIN));
    let file = file.map(|file| PollFd::new(file, PollFlags::POLLOUT));
    let mut fds: Vec<_> = file.into_iter().chain(stop.clone()).collect();
    match poll(&mut fds, timeout) {
        Ok(0) | Err(Errno::EINTR) => return Ok(()),
        Ok(_) => {}
        Err(errno) => return Err(errno.into()),
    }
    // A file that can be written is the first of those that are ready.
    let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
    if fds.iter().position(ready) == Some(fds.len() - 1) && stop.is_some() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "stopped while waiting for its reader"));
    }
    Ok(())
}

/// File, FIFO or device that the tender writes a recording to.
#[derive(Debug)]
pub(crate) struct RecordFile {
    file: File,
    stop: Option<Stop>,
}

impl RecordFile {
    /// Creates or truncates the file. Waits for the reader of a FIFO until `stop` is requested.
    ///
    /// # Errors
    /// The error of open(2); [`io::ErrorKind::TimedOut`] if `stop` was requested.
    pub(crate) fn create(path: &Path, stop: Option<&Stop>) -> io::Result<Self> {
        let file = open(path, OpenOptions::new().write(true).create(true).truncate(true), stop)?;
        Ok(Self { file, stop: stop.cloned() })
    }
}

impl AsFd for RecordFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Write for RecordFile {
    /// Waits for a reader until the stop is requested. Bytes that the reader takes at once are written even then.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                // The descriptor is this file's own, and does not block.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(self.stop.as_ref(), Some(self.file.as_fd()), PollTimeout::NONE)?;
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::thread;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    fn fifo(folder: &tempfile::TempDir) -> std::path::PathBuf {
        let path = folder.path().join("fifo");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        path
    }

    #[test]
    fn a_fifo_waits_for_its_reader_until_the_stop() {
        let folder = tempfile::tempdir().unwrap();
        let (path, stop) = (fifo(&folder), Stop::new().unwrap());
        let waiting = thread::spawn({
            let (path, stop) = (path.clone(), stop.clone());
            move || RecordFile::create(&path, Some(&stop)).map(drop)
        });
        stop.request();
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(open_regular(&path, None).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn what_is_written_reaches_a_reader_that_comes_late() {
        let folder = tempfile::tempdir().unwrap();
        let (path, stop) = (fifo(&folder), Stop::new().unwrap());
        // More than a pipe holds.
        let bytes: Vec<u8> = (0..300_000).map(|index| (index % 251) as u8).collect();
        let writing = thread::spawn({
            let (path, stop, bytes) = (path.clone(), stop.clone(), bytes.clone());
            move || RecordFile::create(&path, Some(&stop))?.write_all(&bytes)
        });
        let mut read = Vec::new();
        File::open(&path).unwrap().read_to_end(&mut read).unwrap();
        writing.join().unwrap().unwrap();
        assert!(read == bytes);
    }

    /// The rest of a recording still goes to a reader that takes it; one that does not read ends the wait.
    #[test]
    fn the_stop_ends_the_wait_for_a_reader_that_does_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let (path, stop) = (fifo(&folder), Stop::new().unwrap());
        let mut reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let mut file = RecordFile::create(&path, Some(&stop)).unwrap();
        stop.request();
        file.write_all(b"rest").unwrap();
        let mut read = [0; 4];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"rest");
        let error = file.write_all(&[0; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn other_files_are_opened_at_once_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "what was there").unwrap();
        RecordFile::create(&path, None).unwrap().write_all(b"new").unwrap();
        let mut read = String::new();
        open_regular(&path, None).unwrap().read_to_string(&mut read).unwrap();
        assert_eq!(read, "new");
        assert_eq!(RecordFile::create(folder.path(), None).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        for path in [Path::new("/dev/null"), folder.path()] {
            assert_eq!(open_regular(path, None).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
