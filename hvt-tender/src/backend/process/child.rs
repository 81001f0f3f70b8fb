//! Making and ending the child process.

use std::arch::asm;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use super::exchange::{EXCHANGE_ADDRESS, Exchange, STUB_ADDRESS};
use super::{handover, rseq};

/// What failed in the child before it reached the script, in [`Header::failed_step`](super::exchange::Header).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum EarlyFailure {
    /// Its restartable sequence could not be undone.
    Rseq = 1,
    /// The stub or the exchange pages could not be mapped.
    Map = 2,
}

/// A child process; dropping it ends it, and waits until it is gone.
#[derive(Debug)]
pub(super) struct Child {
    pidfd: OwnedFd,
    pid: u32,
}

impl Child {
    /// Makes a child that runs the script in the exchange pages.
    ///
    /// It ends with the calling *thread*: PR_SET_PDEATHSIG counts threads.
    pub(super) fn spawn(exchange: &Exchange) -> io::Result<Self> {
        let file = exchange.file().ok_or(io::ErrorKind::InvalidInput)?.as_raw_fd();
        let turn = &exchange.header().turn;
        turn.store(handover::STARTING, Ordering::SeqCst);

        // Handlers of the tender must not run in the child, so signals wait until the child has its own mask.
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
        let mut pidfd: RawFd = -1;
        // No exit signal: the end of this child is nobody's SIGCHLD, and no `wait` of the embedding program reaps it.
        let flags = libc::CLONE_PIDFD as libc::c_ulong;
        // SAFETY: without CLONE_VM the child runs on a copy of this thread's memory; it calls nothing but `enter`,
        // which takes no lock and allocates nothing. `pidfd` is written in the parent.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
        if pid == 0 {
            // SAFETY: this is the child, whose only thread this is.
            unsafe { enter(exchange, file) };
        }
        let spawned = match u32::try_from(pid) {
            // SAFETY: the kernel has just made this descriptor for us.
            Ok(pid) => Ok(Self { pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) }, pid }),
            Err(_) => Err(io::Error::last_os_error()),
        };
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
        spawned
    }

    /// Its process id, as this process sees it.
    pub(super) fn pid(&self) -> u32 {
        self.pid
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

    /// Ends it.
    pub(super) fn kill(&self) {
        let nothing = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: takes no pointer but the null one. It fails only when the child is gone already.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), libc::SIGKILL, nothing, 0) };
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        let _ = self.wait();
    }
}

/// First and last Rust code of the child: undoes the restartable sequence, maps the stub and the exchange pages, goes
/// there. Failures are left in the header.
///
/// # Safety
/// Must run in a process of its own, because it gives up everything.
unsafe fn enter(exchange: &Exchange, file: RawFd) -> ! {
    let fail = |what: EarlyFailure, error: i32| -> ! {
        let header = exchange.header();
        header.failed_result.store(-i64::from(error) as u64, Ordering::Relaxed);
        header.failed_step.store(what as u64, Ordering::Relaxed);
        header.turn.store(handover::TENDERS_TURN, Ordering::SeqCst);
        // SAFETY: wakes a futex in memory that is mapped, then ends this process; both without the C library's help,
        // whose exit handlers belong to the parent.
        unsafe {
            libc::syscall(libc::SYS_futex, header.turn.as_ptr(), libc::FUTEX_WAKE, 1);
            libc::_exit(1)
        }
    };
    if let Err(error) = rseq::unregister() {
        fail(EarlyFailure::Rseq, error);
    }
    let page = hvt_abi::PAGE_SIZE;
    let code = (STUB_ADDRESS, page, libc::PROT_READ | libc::PROT_EXEC, 0);
    let data = (EXCHANGE_ADDRESS, exchange.exchange_size(), libc::PROT_READ | libc::PROT_WRITE, page);
    for (address, len, protection, offset) in [code, data] {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
        let at = address as *mut libc::c_void;
        // SAFETY: MAP_FIXED_NOREPLACE maps over nothing that is in use.
        let mapped = unsafe { libc::mmap(at, len as usize, protection, flags, file, offset as libc::off_t) };
        if mapped != at {
            // SAFETY: errno of this thread, which is the only one.
            fail(EarlyFailure::Map, unsafe { *libc::__errno_location() });
        }
    }
    // SAFETY: the stub's code is mapped there, and starts with the script's interpreter, which needs no stack. Nothing
    // after this runs.
    unsafe { asm!("jmp {stub}", stub = in(reg) STUB_ADDRESS, options(noreturn)) }
}
