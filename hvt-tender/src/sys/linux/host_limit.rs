//! Resource limits of this process (getrlimit(2)) that affect a tender.
//!
//! Guest memory in particular may exceed a limit. Soft limits are raised to the hard limits, which
//! every process may do. If a hard limit is too low, the message names the limit.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use crate::cancel::CancelToken;

/// Raises the soft limits that affect a tender to the hard limits, for the rest of the process.
pub(crate) fn raise() {
    raise_memory();
    raise_to_hard(Resource::RLIMIT_NOFILE);
}

/// Raises the soft limits that apply to a mapping. Returns whether a limit was raised.
pub(crate) fn raise_memory() -> bool {
    // Private writable memory counts as data (Linux 4.7).
    [Resource::RLIMIT_AS, Resource::RLIMIT_DATA].into_iter().map(raise_to_hard).fold(false, |any, raised| any | raised)
}

/// Raises the soft limit on descriptors if the number of the descriptor `newest` shows that half of
/// the descriptors are open.
pub(crate) fn make_room_for_descriptors(newest: &CancelToken) {
    /// Number of open descriptors with which a guest can start under any limit.
    const FEW: u64 = 32;
    let number = u64::from(newest.event().as_fd().as_raw_fd().unsigned_abs());
    if number > FEW && getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(soft, _)| number >= soft / 2) {
        raise_to_hard(Resource::RLIMIT_NOFILE);
    }
}

fn raise_to_hard(resource: Resource) -> bool {
    match getrlimit(resource) {
        Ok((soft, hard)) if soft < hard => setrlimit(resource, hard, hard).is_ok(),
        _ => false,
    }
}

/// Text that follows an error in a message: the limit that may have caused the error, and the way
/// to raise the limit.
pub(crate) struct Advice<'e>(&'e io::Error);

impl<'e> Advice<'e> {
    pub(crate) fn on(error: &'e io::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits: &[(Resource, &str)] = match self.0.raw_os_error() {
            Some(libc::EMFILE) => &[(Resource::RLIMIT_NOFILE, "open descriptors is {}: raise it (ulimit -n")],
            Some(libc::ENOMEM) => &[
                (Resource::RLIMIT_AS, "address space is {} bytes: raise it (ulimit -v"),
                (Resource::RLIMIT_DATA, "data is {} bytes: raise it (ulimit -d"),
            ],
            Some(libc::EAGAIN) => &[(Resource::RLIMIT_NPROC, "processes and threads is {}: raise it (ulimit -u")],
            _ => &[],
        };
        let finite = limits.iter().find_map(|(resource, text)| {
            let (soft, _) = getrlimit(*resource).ok().filter(|(soft, _)| *soft != RLIM_INFINITY)?;
            Some((soft, text, *resource))
        });
        match finite {
            Some((soft, text, resource)) => {
                write!(f, ": the limit on {}, {resource:?})", text.replace("{}", &soft.to_string()))
            }
            None if self.0.raw_os_error() == Some(libc::ENOMEM) => {
                f.write_str(": the host has too little free memory, or does not overcommit (vm.overcommit_memory)")
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "system calls that no library wraps")]
pub(crate) mod testing {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    /// Limits apply to the whole process, so `test` runs in a child process.
    #[track_caller]
    pub(crate) fn apart(test: impl FnOnce() -> bool) {
        // SAFETY: the child has this thread alone. The only lock that it takes and that another
        // thread may hold is the allocator's, which the C library makes safe across `fork`. The
        // child exits without running code of other tests.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let status = i32::from(!test());
                // SAFETY: the call only ends the process.
                unsafe { libc::_exit(status) }
            }
            ForkResult::Parent { child } => assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::apart;
    use super::*;

    #[test]
    fn a_process_with_many_guests_gets_room_for_more() {
        apart(|| {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, 100, hard).unwrap();
            let files = [(); 60].map(|()| std::fs::File::open("/dev/null").unwrap());
            make_room_for_descriptors(&CancelToken::new().unwrap());
            drop(files);
            getrlimit(Resource::RLIMIT_NOFILE) == Ok((hard, hard))
        });
    }

    #[test]
    fn a_limit_that_cannot_be_raised_is_named() {
        apart(|| {
            setrlimit(Resource::RLIMIT_NOFILE, 77, 77).unwrap();
            let advice = Advice(&io::Error::from_raw_os_error(libc::EMFILE)).to_string();
            advice == ": the limit on open descriptors is 77: raise it (ulimit -n, RLIMIT_NOFILE)"
        });
    }

    #[test]
    fn other_errors_need_no_advice() {
        assert_eq!(Advice(&io::Error::from_raw_os_error(libc::EBADF)).to_string(), "");
        assert_eq!(Advice(&io::Error::other("no number")).to_string(), "");
    }
}
