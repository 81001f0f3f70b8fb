//! Console that is a file, a terminal or a pipe of the host.

use std::io;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};

use super::io::{RateLimitedWarning, write};
use super::{Console, Descriptor, Uses};
use crate::cancel::CancelToken;
use crate::interrupted::retry;
use crate::memory::{Chunk, GuestSlice};

/// Bytes that a pipe ready for writing takes without blocking (`PIPE_BUF`; pipe(7)).
const PIECE: usize = 4096;

/// Writes the guest's output to a descriptor at once, unbuffered.
///
/// A slow reader makes the guest wait, until the run is [cancelled](CancelToken). If the reader is
/// gone or the disk is full, output is lost and the guest continues; the log reports this once. The
/// behaviour of a guest must not depend on whether its output is read. A caller that wants the run
/// to end with the reader can cancel the run.
pub struct FdConsole<F> {
    fd: F,
    /// Set if a write may block for an unlimited time.
    blocks: bool,
    stop: CancelToken,
    warning: RateLimitedWarning,
}

impl<F: AsFd> FdConsole<F> {
    /// Creates a console that writes to `fd` until `stop` is requested.
    #[must_use]
    pub fn new(fd: F, stop: CancelToken) -> Self {
        let file_type = fstat(fd.as_fd()).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        Self { fd, blocks: file_type != Ok(SFlag::S_IFREG), stop, warning: RateLimitedWarning::default() }
    }

    fn write_chunk(&self, chunk: Chunk<'_>) -> io::Result<()> {
        let most = if self.blocks { PIECE } else { chunk.len() };
        let mut done = 0;
        while done < chunk.len() {
            if self.blocks && !self.wait()? {
                return Ok(());
            }
            match write(self.fd.as_fd(), chunk, done, most) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                // Another writer may have filled the descriptor again. Only a descriptor that
                // `wait` polls returns this error.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.blocks => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the descriptor accepts bytes or an error is pending. Returns false if the run is
    /// cancelled.
    fn wait(&self) -> io::Result<bool> {
        let mut fds =
            [PollFd::new(self.stop.event(), PollFlags::POLLIN), PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
        retry(|| poll(&mut fds, PollTimeout::NONE))?;
        Ok(!fds[0].any().unwrap_or(true))
    }
}

impl<F: AsFd> Console for FdConsole<F> {
    fn write(&mut self, data: GuestSlice<'_>) {
        match data.chunks().try_for_each(|chunk| self.write_chunk(chunk)) {
            Ok(()) => self.warning.works(),
            Err(error) => self.warning.fails(format_args!("console output is lost: {error}")),
        }
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        vec![Descriptor::new(&self.fd, Uses::WRITE)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::{Buffer, pipe};
    use std::fs::File;
    use std::io::{Read, Seek};
    use std::thread;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index % 251) as u8).collect()
    }

    #[test]
    fn writes_all_of_it_to_a_file() {
        let mut file = tempfile::tempfile().unwrap();
        let mut console = FdConsole::new(file.try_clone().unwrap(), CancelToken::new().unwrap());
        let text = pattern(100_000);
        Buffer::of(&text).with(|slice| console.write(slice));
        Buffer::of(b"").with(|slice| console.write(slice));
        Buffer::of(b"end").with(|slice| console.write(slice));
        let mut written = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut written).unwrap();
        assert_eq!(written, [&text[..], b"end"].concat());
    }

    /// A slow reader of a small pipe, blocking and non-blocking, gets every byte once.
    #[test]
    fn waits_for_a_slow_reader() {
        for flags in [OFlag::empty(), OFlag::O_NONBLOCK] {
            let (reader, writer) = pipe();
            fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
            fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
            let text = pattern(300_001);
            let reader = thread::spawn(move || {
                let mut read = Vec::new();
                File::from(reader).read_to_end(&mut read).unwrap();
                read
            });
            let mut console = FdConsole::new(writer, CancelToken::new().unwrap());
            Buffer::of(&text).with(|slice| console.write(slice));
            drop(console);
            assert!(reader.join().unwrap() == text);
        }
    }

    #[test]
    fn a_stop_ends_the_wait_for_a_reader_that_does_not_read() {
        let (_reader, writer) = pipe();
        let stop = CancelToken::new().unwrap();
        let mut console = FdConsole::new(writer, stop.clone());
        let writing = thread::spawn(move || Buffer::of(&pattern(1 << 20)).with(|slice| console.write(slice)));
        stop.request();
        writing.join().unwrap();
    }

    #[test]
    fn a_closed_pipe_costs_output_only() {
        let (reader, writer) = pipe();
        drop(reader);
        let mut console = FdConsole::new(writer, CancelToken::new().unwrap());
        for _ in 0..3 {
            Buffer::of(b"no reader here").with(|slice| console.write(slice));
        }
        assert!(console.warning.is_failing());
    }

    #[test]
    fn a_full_disk_costs_output_only() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut console = FdConsole::new(full, CancelToken::new().unwrap());
        Buffer::of(b"no room").with(|slice| console.write(slice));
        assert!(console.warning.is_failing());
    }
}
