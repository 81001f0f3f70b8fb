//! Interruption of a running vCPU.
//!
//! `immediate_exit` in the vCPU's run page makes the next `KVM_RUN` return at once. A signal to the
//! vCPU's thread ends the current one. In this order no kick is ever lost.

#![expect(unsafe_code, reason = "system calls of KVM, and memory that the kernel and the guest write")]

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

/// Makes `stop` end the runs of this vCPU, which belongs to the calling thread.
pub(super) fn install(vcpu: &VcpuFd, stop: &CancelToken) -> Result<(), BackendError> {
    let what = "setting up the vCPU's kick";
    let signal = signal().map_err(|source| BackendError { what, source })?;
    let page = RunPage::map(vcpu).map_err(|source| BackendError { what, source })?;
    let kick = VcpuKick { page, signal, process: getpid(), thread: gettid() };
    stop.set_kick(Box::new(kick));
    // Either the request sees the kick, or this thread sees the request.
    fence(Ordering::SeqCst);
    if stop.requested() {
        // The request came before the kick was installed.
        stop.request();
    }
    Ok(())
}

/// Installs a handler for the kick signal, unblocks the signal in this thread and returns its
/// number.
///
/// It is a real-time signal, because no library uses these.
fn signal() -> io::Result<libc::c_int> {
    static HANDLED: OnceLock<Result<(), i32>> = OnceLock::new();
    extern "C" fn nothing(_signal: libc::c_int) {}

    let signal = libc::SIGRTMIN() + 4;
    let handled = HANDLED.get_or_init(|| {
        // SAFETY: all zeros is an empty mask without flags. The handler does nothing and is
        // therefore async-signal-safe.
        let failed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut()) != 0
        };
        if failed { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(()) }
    });
    handled.map_err(io::Error::from_raw_os_error)?;
    // SAFETY: `sigemptyset` initialises the set before its use, and the set lives on this stack.
    let error = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut())
    };
    if error == 0 { Ok(signal) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Ends the runs of one vCPU until a pause is undone.
///
/// A kick may outlive the machine. It owns its page, and the thread that it signals belongs to this
/// process or no longer exists.
struct VcpuKick {
    page: RunPage,
    signal: libc::c_int,
    process: Pid,
    thread: Pid,
}

impl Kick for VcpuKick {
    fn kick(&self) {
        self.page.immediate_exit().store(1, Ordering::SeqCst);
        // SAFETY: a system call without pointers. The signal handler does nothing in any thread of
        // this process. If the thread has ended, the call fails and there is nothing to wake.
        unsafe { libc::syscall(libc::SYS_tgkill, self.process.as_raw(), self.thread.as_raw(), self.signal) };
    }

    fn unpause(&self) {
        self.page.immediate_exit().store(0, Ordering::SeqCst);
    }
}

/// Second mapping of the start of a vCPU's run page, separate from the mapping to which `VcpuFd`
/// holds references.
struct RunPage {
    start: NonNull<u8>,
}

// SAFETY: only one byte is ever accessed, and only atomically.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    const LEN: usize = size_of::<kvm_run>();

    fn map(vcpu: &VcpuFd) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { libc::mmap(null, Self::LEN, protection, libc::MAP_SHARED, vcpu.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast()).map(|start| Self { start }).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte lies in this mapping, which lives as long as `self` and is accessed only
        // here. The kernel may read it concurrently, because it is atomic.
        unsafe { AtomicU8::from_ptr(self.start.add(offset_of!(kvm_run, immediate_exit)).as_ptr()) }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: `map` created the mapping, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), Self::LEN) };
    }
}
