//! The descriptor table of this process.

#![expect(unsafe_code, reason = "a system call that no library wraps")]

/// Number above every descriptor that a process on Redox has at its start.
const TABLE_SIZE: u32 = 1024;

/// Closes all descriptors from `first` to `last`.
///
/// # Safety
/// The descriptors must have no owner.
pub(crate) unsafe fn close_range(first: u32, last: u32) {
    for number in first..=last.min(TABLE_SIZE - 1) {
        // SAFETY: the call takes no pointers; the caller guarantees that the descriptor has no
        // owner.
        unsafe { libc::close(number.cast_signed()) };
    }
}
