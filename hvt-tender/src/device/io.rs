//! System calls with buffers in guest memory, and rate-limited warnings about their failures.

#![expect(unsafe_code, reason = "system calls on guest memory")]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::interrupted::retry;
use crate::memory::{Chunk, GuestSlice};

/// Writes at most `most` bytes of `chunk`, starting at byte `from`. Returns the number of bytes
/// written.
pub(crate) fn write(fd: BorrowedFd<'_>, chunk: Chunk<'_>, from: usize, most: usize) -> io::Result<usize> {
    let rest = chunk.skip(from);
    // SAFETY: the bytes are in the chunk. The kernel copies them like any memory that another
    // thread may be writing.
    count(unsafe { libc::write(fd.as_raw_fd(), rest.as_ptr().cast(), rest.len().min(most)) })
}

/// Reads from byte `offset` of a file until `into` is full.
// Inlined with its callees: these functions run at every hypercall of a disk, and calls to them
// would cost a tenth of the tender's work for a hypercall.
#[inline(always)]
pub(crate) fn read_all_at(fd: BorrowedFd<'_>, into: GuestSlice<'_>, offset: u64) -> io::Result<()> {
    all_at(into, offset, |start, len, offset| {
        // SAFETY: `len` bytes at `start` are guest memory, and no reference to them exists.
        count(unsafe { libc::pread(fd.as_raw_fd(), start, len, offset) })
    })
}

/// Writes all of `from` from byte `offset` of a file on.
#[inline(always)]
pub(crate) fn write_all_at(fd: BorrowedFd<'_>, from: GuestSlice<'_>, offset: u64) -> io::Result<()> {
    all_at(from, offset, |start, len, offset| {
        // SAFETY: `len` bytes at `start` are guest memory. The kernel copies them like any memory
        // that another thread may be writing.
        count(unsafe { libc::pwrite(fd.as_raw_fd(), start, len, offset) })
    })
}

/// Writes all of `frame` in one call, for descriptors with message boundaries.
pub(crate) fn send(fd: BorrowedFd<'_>, frame: GuestSlice<'_>) -> io::Result<usize> {
    let send = |vectors: &[libc::iovec]| {
        // SAFETY: `with_vectors` passes vectors of memory that is mapped during the call.
        count(unsafe { libc::writev(fd.as_raw_fd(), vectors.as_ptr(), length(vectors)) })
    };
    retry(|| match frame.whole() {
        // The common case, and cheaper for the kernel than a list of one vector.
        // SAFETY: the bytes are in the chunk. The kernel copies them like any memory that another
        // thread may be writing.
        Some(chunk) => count(unsafe { libc::write(fd.as_raw_fd(), chunk.as_ptr().cast(), chunk.len()) }),
        None => with_vectors(frame, send),
    })
}

/// Like [`send`], with a header of zeros before the frame. Returns the number of bytes of the frame
/// that were sent.
pub(crate) fn send_behind(fd: BorrowedFd<'_>, header: &[u8], frame: GuestSlice<'_>) -> io::Result<usize> {
    let first = libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() };
    let vectors: Vec<_> = [first].into_iter().chain(frame.chunks().map(vector)).collect();
    // SAFETY: the vectors describe mapped memory; nothing is written to it.
    retry(|| count(unsafe { libc::writev(fd.as_raw_fd(), vectors.as_ptr(), length(&vectors)) }))
        .map(|sent| sent.saturating_sub(header.len()))
}

/// Like [`receive`], with a header before the frame, which is stored in `header`. Returns the
/// number of bytes of the frame, or 0 if none was received.
pub(crate) fn receive_behind(fd: BorrowedFd<'_>, header: &mut [u8], into: GuestSlice<'_>) -> io::Result<usize> {
    let first = libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() };
    let vectors: Vec<_> = [first].into_iter().chain(into.chunks().map(vector)).collect();
    // SAFETY: the vectors describe `header`, which is borrowed, and guest memory, to which no
    // reference exists.
    retry(|| count(unsafe { libc::readv(fd.as_raw_fd(), vectors.as_ptr(), length(&vectors)) }))
        .map(|received| received.saturating_sub(header.len()))
}

/// Reads into `into` with one call. Returns the number of bytes.
pub(crate) fn receive(fd: BorrowedFd<'_>, into: GuestSlice<'_>) -> io::Result<usize> {
    let receive = |vectors: &[libc::iovec]| {
        // SAFETY: as in `send`; no reference to any of the bytes exists.
        count(unsafe { libc::readv(fd.as_raw_fd(), vectors.as_ptr(), length(vectors)) })
    };
    retry(|| match into.whole() {
        // SAFETY: the bytes are in the chunk; no reference to them exists.
        Some(chunk) => count(unsafe { libc::read(fd.as_raw_fd(), chunk.as_ptr().cast(), chunk.len()) }),
        None => with_vectors(into, receive),
    })
}

/// Calls `transfer(start, length, file offset)` until all of `slice` is transferred.
#[inline(always)]
fn all_at(
    slice: GuestSlice<'_>,
    offset: u64,
    transfer: impl Fn(*mut libc::c_void, usize, libc::off_t) -> io::Result<usize>,
) -> io::Result<()> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // Usually one call transfers everything.
    let moved = match slice.whole() {
        Some(chunk) => match transfer(chunk.as_ptr().cast(), chunk.len(), offset) {
            Ok(moved) if moved == chunk.len() => return Ok(()),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => moved,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        },
        None => 0,
    };
    rest_at(slice.skip(moved as u64), offset + moved as libc::off_t, transfer)
}

/// Like [`all_at`], piece by piece.
#[cold]
fn rest_at(
    slice: GuestSlice<'_>,
    mut offset: libc::off_t,
    transfer: impl Fn(*mut libc::c_void, usize, libc::off_t) -> io::Result<usize>,
) -> io::Result<()> {
    for chunk in slice.chunks() {
        let mut left = chunk;
        while !left.is_empty() {
            let moved = retry(|| transfer(left.as_ptr().cast(), left.len(), offset))?;
            if moved == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left = left.skip(moved);
            offset += moved as libc::off_t;
        }
    }
    Ok(())
}

/// Calls `each` with vectors that describe the chunks of `slice`. A single chunk, the usual case
/// under an operating system, needs no allocation.
pub(crate) fn with_vectors<R>(slice: GuestSlice<'_>, each: impl Fn(&[libc::iovec]) -> R) -> R {
    let mut chunks = slice.chunks().map(vector);
    match (chunks.next(), chunks.next()) {
        (Some(first), Some(second)) => {
            let all: Vec<_> = [first, second].into_iter().chain(chunks).collect();
            each(&all)
        }
        (Some(only), None) => each(&[only]),
        (None, _) => each(&[]),
    }
}

pub(crate) fn vector(chunk: Chunk<'_>) -> libc::iovec {
    libc::iovec { iov_base: chunk.as_ptr().cast(), iov_len: chunk.len() }
}

/// Converts the number of vectors. The kernel refuses a list that is too long.
pub(crate) fn length(vectors: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(vectors.len()).unwrap_or(libc::c_int::MAX)
}

pub(crate) fn count(returned: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// Logs a failure as a warning once, and again only after a success. A guest can retry as often as
/// it likes, and must not fill the log.
#[derive(Debug, Default)]
pub(crate) struct RateLimitedWarning {
    failing: bool,
}

impl RateLimitedWarning {
    /// Logs a failure.
    pub(crate) fn fails(&mut self, what: fmt::Arguments<'_>) {
        if self.failing {
            log::debug!("{what}");
        } else {
            log::warn!("{what}");
        }
        self.failing = true;
    }

    /// Returns whether the last attempt failed.
    #[cfg(test)]
    pub(crate) fn is_failing(&self) -> bool {
        self.failing
    }

    /// Records a success.
    pub(crate) fn works(&mut self) {
        self.failing = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Buffer;
    use std::cell::{Cell, RefCell};

    use proptest::prelude::*;

    /// File offset of the transfers.
    const OFFSET: u64 = 3 << 40;

    fn transfer_all(
        buffer: &Buffer,
        in_pieces: bool,
        transfer: impl Fn(*mut libc::c_void, usize, libc::off_t) -> io::Result<usize>,
    ) -> io::Result<()> {
        let all = |slice: GuestSlice<'_>| all_at(slice, OFFSET, &transfer);
        if in_pieces { buffer.in_pieces(all) } else { buffer.with(all) }
    }

    proptest! {
        /// A signal may interrupt a call before the first byte, or after any byte.
        #[test]
        fn each_byte_is_moved_once_whatever_interrupts(
            len in 1_usize..20_000,
            in_pieces: bool,
            turns in prop::collection::vec(prop::option::of(1_usize..3000), 0..40),
        ) {
            let buffer = Buffer::zeroed(len);
            let first = buffer.with(|slice| slice.whole().unwrap().as_ptr().addr());
            let (turn, moved) = (Cell::new(0), RefCell::new(Vec::new()));
            let done = transfer_all(&buffer, in_pieces, |start, most, offset| {
                let number = turn.replace(turn.get() + 1);
                let count = match turns.get(number) {
                    None => most,
                    Some(Some(count)) => most.min(*count),
                    Some(None) => return Err(io::ErrorKind::Interrupted.into()),
                };
                moved.borrow_mut().push((start.addr() - first, offset as u64 - OFFSET, count));
                Ok(count)
            });
            prop_assert!(done.is_ok());
            let mut next = 0;
            for (in_memory, in_file, count) in moved.into_inner() {
                prop_assert_eq!((in_memory, in_file), (next, next as u64));
                next += count;
            }
            prop_assert_eq!(next, len);
        }

        /// A failure after the first bytes is an error, and is not retried.
        #[test]
        fn a_part_is_not_the_whole(len in 2_usize..20_000, part in 1_usize..20_000, in_pieces: bool, ends: bool) {
            let (buffer, calls) = (Buffer::zeroed(len), Cell::new(0));
            let part = part.min(len - 1);
            let done = transfer_all(&buffer, in_pieces, |_, most, offset| {
                calls.set(calls.get() + 1);
                match part as u64 - (offset as u64 - OFFSET) {
                    0 if ends => Ok(0),
                    0 => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
                    left => Ok(most.min(left as usize)),
                }
            });
            let kind = if ends { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::StorageFull };
            prop_assert_eq!(done.unwrap_err().kind(), kind);
            prop_assert!(calls.get() <= 2 + len / 4096 + 1, "{} calls", calls.get());
        }
    }
}
