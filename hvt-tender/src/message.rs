//! Messages for the user: lines on the standard error that begin with the program's name.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::interrupted::retry;

/// Writes one line in one call. Control characters, for example in file names, are escaped and not
/// sent to the terminal.
pub(crate) fn line(to: &mut dyn Write, program: &str, text: &dyn fmt::Display) {
    let mut line = String::new();
    // Neither writing to a `String` nor escaping fails.
    let _ = write!(Escaped(&mut line), "{program}: {text}");
    line.push('\n');
    // A failure to write a message cannot be reported.
    let _ = to.write_all(line.as_bytes());
}

/// The standard error, without blocking the run. If the reader stops reading, a write waits for one
/// second at most. Then this message and later ones are dropped until the reader continues.
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        static STUCK: AtomicBool = AtomicBool::new(false);
        write_in_time(io::stderr(), bytes, &STUCK)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes some of `bytes`. Returns `Ok` without writing if the reader does not read in time, and
/// records this in `stuck`.
fn write_in_time(to: impl AsFd, bytes: &[u8], stuck: &AtomicBool) -> io::Result<usize> {
    /// Longest wait for a reader, in milliseconds.
    const PATIENCE: u16 = 1000;
    /// Bytes that a pipe ready for writing takes without blocking (`PIPE_BUF`; pipe(7)).
    const PIECE: usize = 4096;
    let patience = if stuck.load(Ordering::Relaxed) { 0 } else { PATIENCE };
    // A steady stream of signals can prolong the wait.
    let ready = retry(|| poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(patience)));
    stuck.store(ready == Ok(0), Ordering::Relaxed);
    if ready == Ok(0) {
        return Ok(bytes.len());
    }
    match nix::unistd::write(to.as_fd(), &bytes[..bytes.len().min(PIECE)]) {
        // Another writer filled the pipe first, and the pipe is non-blocking.
        Err(Errno::EAGAIN) => Ok(bytes.len()),
        written => Ok(written?),
    }
}

/// Writer that escapes control characters.
struct Escaped<'s>(&'s mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                control if control.is_control() => self.0.extend(control.escape_default()),
                plain => self.0.push(plain),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes beyond the capacity of an unread pipe are dropped. After a reader has drained the
    /// pipe, the next write succeeds.
    #[test]
    fn the_wait_for_a_reader_is_bounded() {
        let (mut reader, writer) = io::pipe().unwrap();
        let stuck = AtomicBool::new(false);
        let mut filled = 0;
        while !stuck.load(Ordering::Relaxed) {
            filled += write_in_time(&writer, &[b'.'; 5000], &stuck).unwrap();
        }
        for _ in 0..1000 {
            assert_eq!(write_in_time(&writer, &[b'x'; 5000], &stuck).unwrap(), 5000);
        }
        filled -= 5000;
        io::Read::read_exact(&mut reader, &mut vec![0; filled]).unwrap();
        assert_eq!(write_in_time(&writer, b"again", &stuck).unwrap(), 5);
        drop(writer);
        let mut rest = String::new();
        io::Read::read_to_string(&mut reader, &mut rest).unwrap();
        assert_eq!(rest, "again");
    }

    #[test]
    fn a_line_is_one_line() {
        let mut written = Vec::new();
        line(&mut written, "hvt-tender", &"a\nb\u{1b}[31mc\u{85}é");
        assert_eq!(String::from_utf8(written).unwrap(), "hvt-tender: a\\nb\\u{1b}[31mc\\u{85}é\n");
    }
}
