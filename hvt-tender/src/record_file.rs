//! Files for recordings: traces and captured frames.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::poll::PollTimeout;

use crate::cancel::CancelToken;
use crate::host_file::{open, wait};

/// File, FIFO or device for a recording.
#[derive(Debug)]
pub(crate) struct RecordFile {
    file: File,
    stop: Option<CancelToken>,
}

impl RecordFile {
    /// Creates or truncates the file. Waits for the reader of a FIFO until `stop` is requested.
    ///
    /// # Errors
    /// Returns the error of open(2), or [`io::ErrorKind::TimedOut`] if `stop` was requested.
    pub(crate) fn create(path: &Path, stop: Option<&CancelToken>) -> io::Result<Self> {
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
    /// Waits for a reader until `stop` is requested. Bytes that the reader can take at once are
    /// written even after the request.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                // No other process shares the file description, and it is non-blocking.
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
    use crate::host_file::open_regular;
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
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
        let (path, stop) = (fifo(&folder), CancelToken::new().unwrap());
        let waiting = thread::spawn({
            let (path, stop) = (path.clone(), stop.clone());
            move || RecordFile::create(&path, Some(&stop)).map(drop)
        });
        stop.request();
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_is_written_reaches_a_reader_that_comes_late() {
        let folder = tempfile::tempdir().unwrap();
        let (path, stop) = (fifo(&folder), CancelToken::new().unwrap());
        // More bytes than a pipe holds.
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

    /// After `stop` is requested, a reader that reads still gets the rest of the recording. A
    /// reader that does not read ends the wait.
    #[test]
    fn the_stop_ends_the_wait_for_a_reader_that_does_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let (path, stop) = (fifo(&folder), CancelToken::new().unwrap());
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
    fn a_regular_file_is_truncated_and_a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "what was there").unwrap();
        RecordFile::create(&path, None).unwrap().write_all(b"new").unwrap();
        let mut read = String::new();
        open_regular(&path, None).unwrap().read_to_string(&mut read).unwrap();
        assert_eq!(read, "new");
        assert_eq!(RecordFile::create(folder.path(), None).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
