//! SIGINT, SIGTERM and SIGHUP end the run.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::cancel::CancelToken;

/// What the handler asks to stop.
static STOP: OnceLock<CancelToken> = OnceLock::new();

/// Number of the signal that has come, 0 before.
static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// Keeps the signals that ask a program to end from ending it otherwise than [`stop_on_signals`] will.
///
/// SIGHUP is ignored where whoever started this program made it so: `nohup` means it. SIGINT is not, as with Solo5's
/// tender: a shell makes what it starts in the background ignore it, and a script sends it there all the same.
pub(super) fn catch() -> io::Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // No SA_RESTART: a system call that waits must come back.
        let action = SigAction::new(SigHandler::Handler(handle), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler calls what is async-signal-safe only.
        let before = unsafe { sigaction(signal, &action) }?;
        if matches!(before.handler(), SigHandler::SigIgn) && signal == Signal::SIGHUP {
            // SAFETY: this was the signal's action before.
            unsafe { sigaction(signal, &before) }?;
        }
    }
    Ok(())
}

/// Makes the signals that are [caught](catch) request `stop`, also where one has come already. Works once in a process.
pub(super) fn stop_on_signals(stop: &CancelToken) -> io::Result<()> {
    STOP.set(stop.clone()).map_err(|_| io::ErrorKind::AlreadyExists)?;
    // Either the handler sees what it is to stop, or this sees that it has run.
    if RECEIVED.load(Ordering::SeqCst) != 0 {
        stop.request();
    }
    Ok(())
}

/// Makes a write to a pipe that nobody reads, or beyond a limit on the size of files, an error of that write, and not the
/// end of the tender.
pub(super) fn survive_writes() {
    for signal in [Signal::SIGPIPE, Signal::SIGXFSZ] {
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: no handler is called. It fails for signals that do not exist.
        let _ = unsafe { sigaction(signal, &ignore) };
    }
}

/// The name of the signal that has come, if one has.
pub(super) fn received() -> Option<&'static str> {
    Signal::try_from(RECEIVED.load(Ordering::SeqCst)).ok().map(Signal::as_str)
}

/// Runs as a signal handler: atomics and async-signal-safe system calls only, and `errno` as it was.
extern "C" fn handle(signal: libc::c_int) {
    let errno = nix::errno::Errno::last();
    RECEIVED.store(signal, Ordering::SeqCst);
    if let Some(stop) = STOP.get() {
        stop.request();
    }
    errno.set();
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    use nix::sys::signal::raise;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    /// What a process does with signals is its own, so this is a process of its own.
    #[test]
    fn a_signal_that_comes_before_there_is_anything_to_stop_is_not_lost() {
        let requested = || {
            catch()?;
            raise(Signal::SIGTERM)?;
            let stop = CancelToken::new()?;
            stop_on_signals(&stop)?;
            io::Result::Ok(stop.requested())
        };
        // SAFETY: the child has this thread alone. It takes no lock that another thread may hold but that of memory, which
        // the C library looks after, and ends without the other tests' doings.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let status = i32::from(!matches!(requested(), Ok(true)));
                // SAFETY: it ends the process.
                unsafe { libc::_exit(status) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            }
        }
    }
}
