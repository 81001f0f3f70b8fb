//! The descriptor table of this process.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use crate::sandbox::outer;

/// Closes all descriptors from `first` to `last`.
///
/// # Safety
/// The descriptors must have no owner.
pub(crate) unsafe fn close_range(first: u32, last: u32) {
    // SAFETY: the call takes no pointers; the caller guarantees that the descriptors have no owner.
    if outer::allows(libc::SYS_close_range) && unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return;
    }
    for number in first..=last.min(table_size().saturating_sub(1)) {
        // SAFETY: the call takes no pointers; the caller guarantees that the descriptor has no
        // owner.
        unsafe { libc::close(number.cast_signed()) };
    }
}

/// Returns a number above every open descriptor.
pub(crate) fn table_size() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")?.trim().parse().ok());
    // Without /proc: numbers are below the limit, unless the limit was lowered since.
    let limit = || getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft.min(1 << 20) as u32);
    size.unwrap_or_else(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, fcntl};
    use std::os::fd::{FromRawFd, OwnedFd};

    #[test]
    fn every_number_is_in_the_table() {
        let file = tempfile::tempfile().unwrap();
        let number = fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(777)).unwrap();
        // SAFETY: the descriptor is new and has no owner.
        let _owner = unsafe { OwnedFd::from_raw_fd(number) };
        assert!(table_size() > number.cast_unsigned());
    }
}
