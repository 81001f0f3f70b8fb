//! Making a running vCPU come back.
//!
//! `immediate_exit` of the vCPU's run page makes the next `KVM_RUN` return at once; a signal to the vCPU's thread ends
//! the one that is under way. In this order there is no moment at which a kick gets lost.

use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering, fence};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use nix::unistd::{Pid, getpid, gettid};

use crate::backend::{BackendError, CancelToken, Kick};

/// Lets `stop` end the runs of this vCPU, which belongs to the calling thread.
pub(super) fn install(vcpu: &VcpuFd, stop: &CancelToken) -> Result<(), BackendError> {
    let what = "preparing to be stopped";
    let signal = signal().map_err(|source| BackendError { what, source })?;
    let page = RunPage::map(vcpu).map_err(|source| BackendError { what, source })?;
    let kick = VcpuKick { page, signal, process: getpid(), thread: gettid() };
    stop.set_kick(Box::new(kick));
    // Either the request sees the kick, or this sees the request.
    fence(Ordering::SeqCst);
    if stop.requested() {
        // The request came before there was anything to kick.
        stop.request();
    }
    Ok(())
}

/// The signal of a kick, now with a handler and not blocked in this thread.
///
/// A real-time signal: no library has a meaning for it.
fn signal() -> io::Result<libc::c_int> {
    static HANDLED: OnceLock<Result<(), i32>> = OnceLock::new();
    extern "C" fn nothing(_signal: libc::c_int) {}

    let signal = libc::SIGRTMIN() + 4;
    let handled = HANDLED.get_or_init(|| {
        // SAFETY: all zeros is an empty mask and no flags; the handler does nothing, so it is async-signal-safe.
        let failed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut()) != 0
        };
        if failed { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(()) }
    });
    handled.map_err(io::Error::from_raw_os_error)?;
    // SAFETY: the set is initialised by `sigemptyset` before it is used, and lives on this stack.
    let error = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut())
    };
    if error == 0 { Ok(signal) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Ends the runs of one vCPU, until a pause is taken back.
///
/// It may outlive the machine. Its page is its own, and the thread it signals belongs to this process or to none.
struct VcpuKick {
    page: RunPage,
    signal: libc::c_int,
    process: Pid,
    thread: Pid,
}

impl Kick for VcpuKick {
    fn kick(&self) {
        self.page.immediate_exit().store(1, Ordering::SeqCst);
        // SAFETY: a system call without pointers. The handler of the signal does nothing, in whatever thread of this
        // process; where the thread has ended, the call fails and there is nothing to wake.
        unsafe { libc::syscall(libc::SYS_tgkill, self.process.as_raw(), self.thread.as_raw(), self.signal) };
    }

    fn unpause(&self) {
        self.page.immediate_exit().store(0, Ordering::SeqCst);
    }
}

/// A second mapping of the head of a vCPU's run page, apart from the one that `VcpuFd` holds references to.
struct RunPage {
    start: NonNull<u8>,
}

// SAFETY: the one byte that is ever touched is accessed atomically.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    const LEN: usize = size_of::<kvm_run>();

    fn map(vcpu: &VcpuFd) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { libc::mmap(null, Self::LEN, protection, libc::MAP_SHARED, vcpu.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast()).map(|start| Self { start }).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte lies in this mapping, which lives as long as `self`, and which is accessed here alone. The
        // kernel reads it, as any agent may read an atomic.
        unsafe { AtomicU8::from_ptr(self.start.add(offset_of!(kvm_run, immediate_exit)).as_ptr()) }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map`, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), Self::LEN) };
    }
}
