//! What a program says to its user: lines on the standard error that begin with its name.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::interrupted::retry;

/// Writes one line at once. Control characters, which a file's name may hold, are shown, not sent to the terminal.
pub(crate) fn line(to: &mut dyn Write, program: &str, text: &dyn fmt::Display) {
    let mut line = String::new();
    // Neither writing to a `String` nor escaping fails.
    let _ = write!(Escaped(&mut line), "{program}: {text}");
    line.push('\n');
    // There is nobody left to tell.
    let _ = to.write_all(line.as_bytes());
}

/// The standard error, which a run does not wait for: what a reader that has stopped to read does not take in a second is
/// lost, and so is at once what comes then, until the reader goes on.
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

/// Writes some of `bytes`, or pretends to where nobody takes them, which `stuck` remembers.
fn write_in_time(to: impl AsFd, bytes: &[u8], stuck: &AtomicBool) -> io::Result<usize> {
    /// The longest wait for a reader, in milliseconds.
    const PATIENCE: u16 = 1000;
    /// A pipe that says it can be written takes this many bytes without blocking (`PIPE_BUF`; pipe(7)).
    const PIECE: usize = 4096;
    let patience = if stuck.load(Ordering::Relaxed) { 0 } else { PATIENCE };
    // A process that sends signals all the time may make the wait longer.
    let ready = retry(|| poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(patience)));
    stuck.store(ready == Ok(0), Ordering::Relaxed);
    if ready == Ok(0) {
        return Ok(bytes.len());
    }
    match nix::unistd::write(to.as_fd(), &bytes[..bytes.len().min(PIECE)]) {
        // Somebody else was faster, and the pipe is one that does not block.
        Err(Errno::EAGAIN) => Ok(bytes.len()),
        written => Ok(written?),
    }
}

/// Text with its control characters escaped.
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

    /// What fills a pipe that nobody reads is lost, and what comes behind it; once somebody reads, the next is not.
    #[test]
    fn nobody_waits_for_a_reader_for_long() {
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
