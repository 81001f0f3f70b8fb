//! Making and ending the child process.

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
use crate::open_descriptors;
use crate::sandbox::{Calls, Condition};

/// The signal that makes the child hand over as soon as it can, like every one that it handles.
pub(super) const PAUSE: libc::c_int = libc::SIGTRAP;

/// The longest wait for a killed child. The kernel frees the child's page tables meanwhile, which takes milliseconds for
/// 4 GiB; only a child in an uninterruptible sleep takes longer.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// Options of `waitid`: never waits, because the child is known to be gone.
const WAIT_OPTIONS: libc::c_int = libc::WEXITED | libc::WNOHANG | libc::__WALL;

/// The usual reason for a SIGKILL that the tender has not sent.
const OUT_OF_MEMORY: &str = "if no user has sent that, the host or its cgroup has run out of memory";

/// A child process; dropping it ends it, and waits until it is gone.
#[derive(Debug)]
pub(super) struct Child {
    pidfd: Arc<OwnedFd>,
    pid: u32,
}

/// The end of a child.
#[derive(Debug)]
pub(super) enum End {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
    /// It could not be killed, or its status could not be read.
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
    /// Makes a child that executes the stub, and with it the script in the exchange pages. It keeps the two files, and the
    /// tender's other descriptors only if its script can close them by close_range(2).
    ///
    /// It ends with the calling *thread*: PR_SET_PDEATHSIG counts threads.
    ///
    /// # Errors
    /// Returns [`BackendError`], which names the system call, if the host refuses one.
    pub(super) fn spawn(exchange: &Exchange, memory: BorrowedFd<'_>, close_range: bool) -> Result<Self, BackendError> {
        let error = |what| move |source: Errno| BackendError { what, source: source.into() };
        let stub = exchange.file().ok_or(Errno::EINVAL).map_err(error("making the child process"))?;
        exchange.header().turn.store(turn::STARTING, Ordering::SeqCst);
        let closed = if close_range { 0 } else { open_descriptors::table_size() };
        let mut plan = ChildPlan { stub: stub.as_raw_fd(), memory: memory.as_raw_fd(), closed, failed: 0, error: 0 };
        let mut stack = MaybeUninit::<Stack>::uninit();
        let mut pidfd: RawFd = -1;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;

        // Handlers of the tender must not run in the child. The mask stays in force across its exec.
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))
            .map_err(error("making the child process: sigprocmask"))?;
        // SAFETY: the child runs `execute` on a stack of its own, which is large enough for three system calls, while
        // this thread waits for its exec or its end (CLONE_VFORK); so everything it is lent outlives its use.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(1).cast::<c_void>();
            libc::clone(execute, top, flags, (&raw mut plan).cast(), &raw mut pidfd)
        };
        let failed = Errno::last();
        let unblocked = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
        let pid = u32::try_from(pid).map_err(|_| failed).map_err(error("making the child process: clone"))?;
        // SAFETY: the kernel has just made this descriptor for us.
        let child = Self { pidfd: Arc::new(unsafe { OwnedFd::from_raw_fd(pidfd) }), pid };
        unblocked.map_err(error("making the child process: sigprocmask"))?;
        // SAFETY: the child wrote them, if at all, before this thread went on; the compiler must not assume the 0.
        match unsafe { ((&raw const plan.failed).read_volatile(), (&raw const plan.error).read_volatile()) } {
            (0, _) => Ok(child),
            (ChildPlan::FCNTL, errno) => Err(error("making the child process: fcntl")(Errno::from_raw(errno))),
            (_, errno) => Err(error("making the child process: execveat")(Errno::from_raw(errno))),
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
        Ok(self.gone_within(Duration::ZERO, None)? == Wait::Gone)
    }

    /// Waits until it is gone, at most this long, and no longer than until `stop` requests the end of the run.
    pub(super) fn gone_within(&self, at_most: Duration, stop: Option<&CancelToken>) -> io::Result<Wait> {
        let start = Instant::now();
        loop {
            if stop.is_some_and(CancelToken::requested) {
                return Ok(Wait::Stopped);
            }
            let left = at_most.saturating_sub(start.elapsed());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            // The event is readable as well while the run only pauses, which is no reason to come back.
            let event = stop.filter(|stop| !stop.interrupts()).map_or(self.pidfd.as_fd(), CancelToken::event);
            let mut fds = [self.pidfd.as_fd(), event].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, timeout) {
                Ok(_) if fds[0].any() == Some(true) => return Ok(Wait::Gone),
                Ok(0) if start.elapsed() >= at_most => return Ok(Wait::TimeUp),
                // Even a call that does not wait is interrupted.
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Kills it if it lives, and waits until it is gone. It is not waited for if it cannot be killed: it ends with
    /// this thread then.
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

    /// How it ended, once it is gone.
    fn reap(&self) -> End {
        let Ok(pidfd) = libc::id_t::try_from(self.pidfd.as_raw_fd()) else {
            return End::Unknown(io::ErrorKind::InvalidInput.into());
        };
        // SAFETY: siginfo_t is plain data, for which all zeros are valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is a local that the call fills in.
        if unsafe { libc::waitid(libc::P_PIDFD, pidfd, &raw mut info, WAIT_OPTIONS) } != 0 {
            return End::Unknown(io::Error::last_os_error());
        }
        // SAFETY: waitid has filled in the fields of a SIGCHLD, or left the zeros.
        match (info.si_code, unsafe { info.si_status() }) {
            (0, _) => End::Unknown(io::ErrorKind::WouldBlock.into()),
            (libc::CLD_EXITED, status) => End::Exited(status),
            (_, signal) => End::Killed(signal),
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
}

/// What became of a wait for a child's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The child is gone.
    Gone,
    /// The run is to end.
    Stopped,
    /// The child lives.
    TimeUp,
}

/// Sends a signal to the process behind `pidfd`, unless it is gone already. Async-signal-safe.
pub(super) fn send(pidfd: &OwnedFd, signal: libc::c_int) -> io::Result<()> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: takes no pointer but the null one.
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

/// What the child is told, and tells.
struct ChildPlan {
    stub: RawFd,
    memory: RawFd,
    /// Descriptors below this number are closed.
    closed: u32,
    /// The call that failed.
    failed: u32,
    /// Its errno.
    error: i32,
}

impl ChildPlan {
    const FCNTL: u32 = 1;
    const EXECVEAT: u32 = 2;
}

/// The child's stack until it executes the stub.
#[repr(align(16))]
struct Stack(#[expect(dead_code, reason = "it is memory")] [u8; 8192]);

/// All that runs in the child before the stub: keeps the two files, and executes the first.
extern "C" fn execute(plan: *mut c_void) -> libc::c_int {
    let plan = plan.cast::<ChildPlan>();
    let nothing = [ptr::null::<libc::c_char>()];
    // SAFETY: `spawn` passes a pointer to its plan and waits meanwhile. The calls take descriptors and constant
    // strings; the descriptors' flags are changed in the child's own table.
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
