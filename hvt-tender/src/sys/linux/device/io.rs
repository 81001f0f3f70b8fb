//! Messages of sockets.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::device::io::{count, with_vectors};
use crate::interrupted::retry;
use crate::memory::GuestSlice;

/// Sends all of `frame` as one message of a socket. If the peer is gone, the call returns an error
/// and raises no signal.
pub(super) fn send_message(socket: BorrowedFd<'_>, frame: GuestSlice<'_>) -> io::Result<usize> {
    let send = |vectors: &[libc::iovec]| {
        // SAFETY: `msghdr` consists of integers and pointers, for which zero is valid.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = vectors.as_ptr().cast_mut();
        message.msg_iovlen = vectors.len();
        // SAFETY: `with_vectors` passes vectors of memory that is mapped during the call; nothing
        // is written to it.
        count(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) })
    };
    retry(|| with_vectors(frame, send))
}
