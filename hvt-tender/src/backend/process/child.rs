//! Making and ending the child process.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::{io, ptr};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use super::exchange::Exchange;
use super::protocol::turn;
use crate::sandbox::{Calls, Condition};

/// The signal that makes the child hand over as soon as it can, like every one that it handles.
pub(super) const PAUSE: libc::c_int = libc::SIGTRAP;

/// A child process; dropping it ends it, and waits until it is gone.
#[derive(Debug)]
pub(super) struct Child {
    pidfd: Arc<OwnedFd>,
    pid: u32,
}

impl Child {
    /// Makes a child that executes the stub, and with it the script in the exchange pages. It keeps the two files.
    ///
    /// It ends with the calling *thread*: PR_SET_PDEATHSIG counts threads.
    pub(super) fn spawn(exchange: &Exchange, memory: BorrowedFd<'_>) -> io::Result<Self> {
        let stub = exchange.file().ok_or(io::ErrorKind::InvalidInput)?;
        exchange.header().turn.store(turn::STARTING, Ordering::SeqCst);
        let mut plan = Plan { stub: stub.as_raw_fd(), memory: memory.as_raw_fd(), error: 0 };
        let mut stack = MaybeUninit::<Stack>::uninit();
        let mut pidfd: RawFd = -1;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;

        // Handlers of the tender must not run in the child. The mask stays in force across its exec.
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
        // SAFETY: the child runs `execute` on a stack of its own, which is large enough for three system calls, while
        // this thread waits for its exec or its end (CLONE_VFORK); so everything it is lent outlives its use.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(1).cast::<c_void>();
            libc::clone(execute, top, flags, (&raw mut plan).cast(), &raw mut pidfd)
        };
        let failed = io::Error::last_os_error();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
        let pid = u32::try_from(pid).map_err(|_| failed)?;
        // SAFETY: the kernel has just made this descriptor for us.
        let child = Self { pidfd: Arc::new(unsafe { OwnedFd::from_raw_fd(pidfd) }), pid };
        // SAFETY: the child wrote it, if at all, before this thread went on; the compiler must not assume the 0.
        match unsafe { (&raw const plan.error).read_volatile() } {
            0 => Ok(child),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Its process id, as this process sees it.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// What refers to it, for as long as anybody keeps this.
    pub(super) fn pidfd(&self) -> Arc<OwnedFd> {
        self.pidfd.clone()
    }

    /// Whether it is gone.
    pub(super) fn has_ended(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? != 0)
    }

    /// Waits until it is gone; says how it ended.
    pub(super) fn wait(&self) -> String {
        let Ok(pidfd) = libc::id_t::try_from(self.pidfd.as_raw_fd()) else { return "unknown".into() };
        loop {
            // SAFETY: siginfo_t is plain data, for which all zeros are valid.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            // SAFETY: `info` is a local that the call fills in.
            let failed =
                unsafe { libc::waitid(libc::P_PIDFD, pidfd, &raw mut info, libc::WEXITED | libc::__WALL) } != 0;
            let error = io::Error::last_os_error();
            if failed && error.raw_os_error() == Some(libc::EINTR) {
                continue;
            }
            if failed {
                return format!("cannot tell how: {error}");
            }
            // SAFETY: waitid has filled in the fields of a SIGCHLD.
            let status = unsafe { info.si_status() };
            return match info.si_code {
                libc::CLD_EXITED => format!("exit status {status}"),
                _ => match nix::sys::signal::Signal::try_from(status) {
                    Ok(signal) => format!("killed by {signal}"),
                    Err(_) => format!("killed by signal {status}"),
                },
            };
        }
    }

    /// Allows what it takes to end it, and to wait until it is gone.
    pub(super) fn system_calls(&self, calls: &mut Calls) {
        self.allow_signal(calls, libc::SIGKILL);
        let pidfd = self.pidfd.as_raw_fd().cast_unsigned();
        calls.allow_if(libc::SYS_waitid, &[Condition::equal(0, libc::P_PIDFD), Condition::equal(1, pidfd)]);
    }

    /// Allows the signal that makes it hand over.
    pub(super) fn calls_to_pause(&self, calls: &mut Calls) {
        self.allow_signal(calls, PAUSE);
    }

    fn allow_signal(&self, calls: &mut Calls, signal: libc::c_int) {
        let pidfd = Condition::equal(0, self.pidfd.as_raw_fd().cast_unsigned());
        calls.allow_if(libc::SYS_pidfd_send_signal, &[pidfd, Condition::equal(1, signal.cast_unsigned())]);
    }

    /// Ends it.
    pub(super) fn kill(&self) {
        send(&self.pidfd, libc::SIGKILL);
    }
}

/// Sends a signal to the process behind `pidfd`, unless it is gone already. Async-signal-safe.
pub(super) fn send(pidfd: &OwnedFd, signal: libc::c_int) {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: takes no pointer but the null one. It fails only when the child is gone already.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, nothing, 0) };
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        let _ = self.wait();
    }
}

/// What the child is told, and tells.
struct Plan {
    stub: RawFd,
    memory: RawFd,
    /// Errno of what failed.
    error: i32,
}

/// The child's stack until it executes the stub.
#[repr(align(16))]
struct Stack(#[expect(dead_code, reason = "it is memory")] [u8; 8192]);

/// All that runs in the child before the stub: keeps the two files, and executes the first.
extern "C" fn execute(plan: *mut c_void) -> libc::c_int {
    let plan = plan.cast::<Plan>();
    let nothing = [ptr::null::<libc::c_char>()];
    // SAFETY: `spawn` passes a pointer to its plan and waits meanwhile. The calls take descriptors and constant
    // strings; the descriptors' flags are changed in the child's own table.
    unsafe {
        let (stub, memory) = ((*plan).stub, (*plan).memory);
        let kept = [stub, memory].iter().all(|file| libc::fcntl(*file, libc::F_SETFD, 0) == 0);
        if kept {
            let (path, none) = (c"".as_ptr(), nothing.as_ptr());
            libc::syscall(libc::SYS_execveat, stub, path, none, none, libc::AT_EMPTY_PATH);
        }
        (&raw mut (*plan).error).write_volatile(*libc::__errno_location());
        libc::_exit(1)
    }
}
