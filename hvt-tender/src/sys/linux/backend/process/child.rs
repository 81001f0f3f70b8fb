//! Creation and end of the child process.

#![expect(unsafe_code, reason = "system calls, and memory that the process of the guest writes")]

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{fmt, io, ptr};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use super::exchange::Exchange;
use super::protocol::turn;
use crate::backend::BackendError;
use crate::cancel::CancelToken;
use crate::sandbox::{Calls, Condition};
use crate::sys::open_descriptors;

/// Signal that makes the child hand over as soon as possible, like every signal that it handles.
pub(super) const PAUSE: libc::c_int = libc::SIGTRAP;

/// Longest wait for a killed child. During this time the kernel frees the child's page tables,
/// which takes milliseconds for 4 GiB. Only a child in an uninterruptible sleep takes longer.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// Options of `waitid`: never waits, because the child is already gone.
const WAIT_OPTIONS: libc::c_int = libc::WEXITED | libc::WNOHANG | libc::__WALL;

/// Usual reason for a SIGKILL that the tender has not sent.
const OUT_OF_MEMORY: &str = "unless a user sent it, the host or its cgroup ran out of memory";

/// Child process. Drop kills it and waits for its end.
#[derive(Debug)]
pub(super) struct Child {
    pidfd: Arc<OwnedFd>,
    pid: u32,
}

/// End of a child process.
#[derive(Debug)]
pub(super) enum End {
    /// Exited with this status.
    Exited(i32),
    /// Killed by this signal.
    Killed(i32),
    /// Not killed, or its status could not be read.
    Unknown(io::Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Killed(signal) => match Signal::try_from(*signal) {
                Ok(Signal::SIGKILL) => write!(f, "killed by {}; {OUT_OF_MEMORY}", Signal::SIGKILL),
                Ok(name) => write!(f, "killed by {name}"),
                Err(_) => write!(f, "killed by signal {signal}"),
            },
            Self::Unknown(error) => write!(f, "status unknown: {error}"),
        }
    }
}

impl Child {
    /// Creates a child that executes the stub, which runs the script in the exchange pages. The
    /// child keeps the two files. It inherits the tender's other descriptors only if its script can
    /// close them with close_range(2).
    ///
    /// The child ends with the calling *thread*, because PR_SET_PDEATHSIG refers to threads.
    ///
    /// # Errors
    /// Returns [`BackendError`], which names the system call, if a system call fails.
    pub(super) fn spawn(exchange: &Exchange, memory: BorrowedFd<'_>, close_range: bool) -> Result<Self, BackendError> {
        let error = |what| move |source: Errno| BackendError { what, source: source.into() };
        let stub = exchange.file().ok_or(Errno::EINVAL).map_err(error("making the child process"))?;
        exchange.header().turn.store(turn::STARTING, Ordering::SeqCst);
        let closed = if close_range { 0 } else { open_descriptors::table_size() };
        let mut plan = ChildPlan { stub: stub.as_raw_fd(), memory: memory.as_raw_fd(), closed, failed: 0, error: 0 };
        let mut stack = MaybeUninit::<Stack>::uninit();
        let mut pidfd: RawFd = -1;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;

        // Signal handlers of the tender must not run in the child. The signal mask persists across
        // exec.
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))
            .map_err(error("making the child process: sigprocmask"))?;
        // SAFETY: the child runs `execute` on a separate stack that is large enough for three
        // system calls. This thread waits for the child's exec or exit (CLONE_VFORK), so that
        // everything lent to the child outlives its use.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(1).cast::<c_void>();
            libc::clone(execute, top, flags, (&raw mut plan).cast(), &raw mut pidfd)
        };
        let failed = Errno::last();
        let unblocked = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
        let pid = u32::try_from(pid).map_err(|_| failed).map_err(error("making the child process: clone"))?;
        // SAFETY: the kernel has just created this descriptor for the tender.
        let child = Self { pidfd: Arc::new(unsafe { OwnedFd::from_raw_fd(pidfd) }), pid };
        unblocked.map_err(error("making the child process: sigprocmask"))?;
        // SAFETY: if the child wrote them, it did so before this thread continued; volatile,
        // because the compiler must not assume 0.
        match unsafe { ((&raw const plan.failed).read_volatile(), (&raw const plan.error).read_volatile()) } {
            (0, _) => Ok(child),
            (ChildPlan::FCNTL, errno) => Err(error("making the child process: fcntl")(Errno::from_raw(errno))),
            (_, errno) => Err(error("making the child process: execveat")(Errno::from_raw(errno))),
        }
    }

    /// Process id of the child in the tender's PID namespace.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the pidfd, which stays valid as long as any copy is kept.
    pub(super) fn pidfd(&self) -> Arc<OwnedFd> {
        self.pidfd.clone()
    }

    /// Returns true if the child is gone.
    pub(super) fn has_ended(&self) -> io::Result<bool> {
        Ok(self.gone_within(Duration::ZERO, None)? == Wait::Gone)
    }

    /// Waits until the child is gone, `at_most` has passed, or `stop` requests the end of the run.
    pub(super) fn gone_within(&self, at_most: Duration, stop: Option<&CancelToken>) -> io::Result<Wait> {
        let start = Instant::now();
        loop {
            if stop.is_some_and(CancelToken::requested) {
                return Ok(Wait::Stopped);
            }
            let left = at_most.saturating_sub(start.elapsed());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            // While the run is only paused, the event is readable too, but that must not end the
            // wait.
            let event = stop.filter(|stop| !stop.interrupts()).map_or(self.pidfd.as_fd(), CancelToken::event);
            let mut fds = [self.pidfd.as_fd(), event].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, timeout) {
                Ok(_) if fds[0].any() == Some(true) => return Ok(Wait::Gone),
                Ok(0) if start.elapsed() >= at_most => return Ok(Wait::TimeUp),
                // Even a call that does not wait can be interrupted.
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Kills the child if it is alive and waits until it is gone. If the child cannot be killed,
    /// does not wait: the child then ends with this thread.
    pub(super) fn end(&self) -> End {
        let gone = send(&self.pidfd, libc::SIGKILL).and_then(|()| self.gone_within(KILLED_WITHIN, None));
        match gone {
            Ok(Wait::Gone) => self.reap(),
            Ok(_) => End::Unknown(io::ErrorKind::TimedOut.into()),
            Err(error) => {
                log::warn!("the guest's process {} cannot be killed: {error}: it ends with this thread", self.pid);
                End::Unknown(error)
            }
        }
    }

    /// Reads how the child ended, once it is gone.
    fn reap(&self) -> End {
        let Ok(pidfd) = libc::id_t::try_from(self.pidfd.as_raw_fd()) else {
            return End::Unknown(io::ErrorKind::InvalidInput.into());
        };
        // SAFETY: siginfo_t is plain data, and all zeros are a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is a local that the call fills in.
        if unsafe { libc::waitid(libc::P_PIDFD, pidfd, &raw mut info, WAIT_OPTIONS) } != 0 {
            return End::Unknown(io::Error::last_os_error());
        }
        // SAFETY: waitid has filled in the fields of a SIGCHLD or left the zeros.
        match (info.si_code, unsafe { info.si_status() }) {
            (0, _) => End::Unknown(io::ErrorKind::WouldBlock.into()),
            (libc::CLD_EXITED, status) => End::Exited(status),
            (_, signal) => End::Killed(signal),
        }
    }

    /// Allows the system calls that end the child and wait until it is gone.
    pub(super) fn system_calls(&self, calls: &mut Calls) {
        self.allow_signal(calls, libc::SIGKILL);
        let pidfd = self.pidfd.as_raw_fd().cast_unsigned();
        calls.allow_if(libc::SYS_waitid, &[Condition::equal(0, libc::P_PIDFD), Condition::equal(1, pidfd)]);
    }

    /// Allows the signal that makes the child hand over.
    pub(super) fn calls_to_pause(&self, calls: &mut Calls) {
        self.allow_signal(calls, PAUSE);
    }

    fn allow_signal(&self, calls: &mut Calls, signal: libc::c_int) {
        let pidfd = Condition::equal(0, self.pidfd.as_raw_fd().cast_unsigned());
        calls.allow_if(libc::SYS_pidfd_send_signal, &[pidfd, Condition::equal(1, signal.cast_unsigned())]);
    }
}

/// Result of waiting for a child's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The child is gone.
    Gone,
    /// The end of the run was requested.
    Stopped,
    /// The child is still alive.
    TimeUp,
}

/// Sends a signal to the process of `pidfd`, unless it is gone already. Async-signal-safe.
pub(super) fn send(pidfd: &OwnedFd, signal: libc::c_int) -> io::Result<()> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: takes no pointer except null.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, nothing, 0) };
    match Errno::result(sent) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// Data exchanged with the child during its creation.
struct ChildPlan {
    stub: RawFd,
    memory: RawFd,
    /// Descriptors below this number are closed.
    closed: u32,
    /// System call that failed.
    failed: u32,
    /// Its errno.
    error: i32,
}

impl ChildPlan {
    const FCNTL: u32 = 1;
    const EXECVEAT: u32 = 2;
}

/// Stack of the child until it executes the stub.
#[repr(align(16))]
struct Stack(#[expect(dead_code, reason = "it is memory")] [u8; 8192]);

/// Code that runs in the child before the stub: keeps the two files and executes the first one.
extern "C" fn execute(plan: *mut c_void) -> libc::c_int {
    let plan = plan.cast::<ChildPlan>();
    let nothing = [ptr::null::<libc::c_char>()];
    // SAFETY: `spawn` passes a pointer to its plan and waits meanwhile. The calls take descriptors
    // and constant strings. Only flags in the child's descriptor table change.
    unsafe {
        let (stub, memory) = ((*plan).stub, (*plan).memory);
        for other in (0..(*plan).closed.cast_signed()).filter(|number| ![stub, memory].contains(number)) {
            libc::close(other);
        }
        let kept = [stub, memory].iter().all(|file| libc::fcntl(*file, libc::F_SETFD, 0) == 0);
        if kept {
            let (path, none) = (c"".as_ptr(), nothing.as_ptr());
            libc::syscall(libc::SYS_execveat, stub, path, none, none, libc::AT_EMPTY_PATH);
        }
        (&raw mut (*plan).error).write_volatile(*libc::__errno_location());
        (&raw mut (*plan).failed).write_volatile(if kept { ChildPlan::EXECVEAT } else { ChildPlan::FCNTL });
        libc::_exit(1)
    }
}
