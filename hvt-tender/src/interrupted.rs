//! System calls that a signal interrupts (`EINTR`; signal(7)) are repeated.
//!
//! Loops that look at a stop request between two calls do without.

use std::io;

use nix::errno::Errno;

/// Error that can be `EINTR`.
pub(crate) trait MayBeInterrupted {
    fn is_interrupted(&self) -> bool;
}

impl MayBeInterrupted for io::Error {
    fn is_interrupted(&self) -> bool {
        self.kind() == io::ErrorKind::Interrupted
    }
}

impl MayBeInterrupted for Errno {
    fn is_interrupted(&self) -> bool {
        *self == Self::EINTR
    }
}

/// Repeats `call` until no signal interrupts it. Only for calls that either do nothing or return success once they
/// have had an effect.
#[inline]
pub(crate) fn retry<T, E: MayBeInterrupted>(mut call: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    loop {
        match call() {
            Err(error) if error.is_interrupted() => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_calls_are_repeated_and_others_are_not() {
        let mut results = [Err(Errno::EINTR), Err(Errno::EINTR), Ok(7), Err(Errno::EIO)].into_iter();
        let mut call = || results.next().unwrap();
        assert_eq!(retry(&mut call), Ok(7));
        assert_eq!(retry(&mut call), Err(Errno::EIO));
    }
}
