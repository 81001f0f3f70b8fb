//! Limit on file sizes (RLIMIT_FSIZE), which also applies to memfds.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Soft limit on file sizes, raised until this guard is dropped.
pub(super) struct FileSize {
    before: Option<(u64, u64)>,
    /// The limit belongs to the whole process, so that threads must raise and restore it one after
    /// the other.
    _turn: MutexGuard<'static, ()>,
}

impl FileSize {
    /// Makes sure that a memfd can have `size` bytes. The limit is meant for files on disks but
    /// also applies to memfds.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::FileTooLarge`] if the hard limit is lower. Exceeding the limit
    /// would raise SIGXFSZ.
    pub(super) fn raise(size: u64) -> io::Result<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (soft, hard) = getrlimit(Resource::RLIMIT_FSIZE)?;
        if size <= soft {
            return Ok(Self { before: None, _turn: turn });
        }
        // Only root can raise a hard limit.
        let enough = size.max(hard);
        setrlimit(Resource::RLIMIT_FSIZE, enough, enough).map_err(|_| {
            let message = format!(
                "the limit on file sizes is {hard} bytes and applies to guest memory: raise it (ulimit -f, RLIMIT_FSIZE), \
                 or use another backend than process"
            );
            io::Error::new(io::ErrorKind::FileTooLarge, message)
        })?;
        Ok(Self { before: Some((soft, hard)), _turn: turn })
    }
}

impl Drop for FileSize {
    fn drop(&mut self) {
        if let Some((soft, hard)) = self.before {
            // Lowering a limit cannot fail.
            let _ = setrlimit(Resource::RLIMIT_FSIZE, soft, hard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::host_limit::testing::apart;

    #[test]
    fn the_limit_on_file_sizes_is_raised_for_a_while() {
        apart(|| {
            let limit = || getrlimit(Resource::RLIMIT_FSIZE).unwrap();
            let (_, hard) = limit();
            setrlimit(Resource::RLIMIT_FSIZE, 4096, hard).unwrap();
            let small = FileSize::raise(4096).is_ok() && limit().0 == 4096;
            let raised = FileSize::raise(4097).is_ok_and(|_raised| limit().0 >= 4097);
            small && raised && limit() == (4096, hard)
        });
    }
}
