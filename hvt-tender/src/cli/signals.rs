//! Stops the run on SIGINT, SIGTERM and SIGHUP.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::cancel::CancelToken;

/// Cancel token that the handler requests.
static STOP: OnceLock<CancelToken> = OnceLock::new();

/// Number of the received signal, 0 before the first one.
static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// Installs the handler, so that SIGINT, SIGTERM and SIGHUP no longer kill the process.
///
/// SIGHUP stays ignored if the parent process ignored it, as `nohup` does. SIGINT is always
/// handled, as in Solo5's tender: a shell starts background jobs with SIGINT ignored, and scripts
/// send SIGINT to them.
pub(super) fn catch() -> io::Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // No SA_RESTART: a blocked system call must return.
        let action = SigAction::new(SigHandler::Handler(handle), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler calls only async-signal-safe functions.
        let before = unsafe { sigaction(signal, &action) }?;
        if matches!(before.handler(), SigHandler::SigIgn) && signal == Signal::SIGHUP {
            // SAFETY: this restores the previous action.
            unsafe { sigaction(signal, &before) }?;
        }
    }
    Ok(())
}

/// Makes the [caught](catch) signals request `stop`, including a signal that arrived earlier. Works
/// once per process.
pub(super) fn stop_on_signals(stop: &CancelToken) -> io::Result<()> {
    STOP.set(stop.clone()).map_err(|_| io::ErrorKind::AlreadyExists)?;
    // Either the handler finds the token, or this thread finds the signal number.
    if RECEIVED.load(Ordering::SeqCst) != 0 {
        stop.request();
    }
    Ok(())
}

/// Ignores SIGPIPE and SIGXFSZ: a write to a pipe without a reader, or beyond the file size limit,
/// returns an error and does not kill the tender.
pub(super) fn survive_writes() {
    for signal in [Signal::SIGPIPE, Signal::SIGXFSZ] {
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: no handler is installed. The call fails only for signals that do not exist.
        let _ = unsafe { sigaction(signal, &ignore) };
    }
}

/// Returns the name of the received signal, if any.
pub(super) fn received() -> Option<&'static str> {
    Signal::try_from(RECEIVED.load(Ordering::SeqCst)).ok().map(Signal::as_str)
}

/// Signal handler. It uses only atomics and async-signal-safe system calls, and restores `errno`.
extern "C" fn handle(signal: libc::c_int) {
    let errno = nix::errno::Errno::last();
    RECEIVED.store(signal, Ordering::SeqCst);
    if let Some(stop) = STOP.get() {
        stop.request();
    }
    errno.set();
}

#[cfg(test)]
mod tests {
    use super::*;

    use nix::sys::signal::raise;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    /// Signal actions belong to the process, so the test forks.
    #[test]
    fn a_signal_before_the_cancel_token_is_not_lost() {
        let requested = || {
            catch()?;
            raise(Signal::SIGTERM)?;
            let stop = CancelToken::new()?;
            stop_on_signals(&stop)?;
            io::Result::Ok(stop.requested())
        };
        // SAFETY: the child has this thread alone. The only lock that it takes and that another
        // thread may hold is the allocator's, which the C library makes safe across `fork`. The
        // child exits without running code of other tests.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let status = i32::from(!matches!(requested(), Ok(true)));
                // SAFETY: the call only ends the process.
                unsafe { libc::_exit(status) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            }
        }
    }
}
