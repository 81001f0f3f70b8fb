//! Cost of the two kernel operations that make up a hypercall on the process backend: a signal and
//! a futex round trip.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::arch::asm;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use crate::guest::least;

/// Measures a privileged instruction, its SIGSEGV and the return from the handler, in microseconds.
pub(crate) fn signal_round_trip() -> io::Result<f64> {
    const ROUNDS: u32 = 50_000;
    let skip = SigHandler::SigAction(skip_hlt);
    let action = SigAction::new(skip, SaFlags::SA_SIGINFO, SigSet::empty());
    // SAFETY: the handler modifies only its own signal frame.
    let before = unsafe { sigaction(Signal::SIGSEGV, &action) }?;
    let result = least(5, || {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            // SAFETY: raises #GP; the handler continues at the next instruction.
            unsafe { asm!("hlt", options(nostack)) };
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS))
    });
    // SAFETY: restores the previous action.
    unsafe { sigaction(Signal::SIGSEGV, &before) }?;
    result
}

extern "C" fn skip_hlt(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the ucontext_t of the signal.
    unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] += 1 };
}

/// Measures a futex round trip between two processes on one CPU, in microseconds.
pub(crate) fn futex_round_trip() -> io::Result<f64> {
    const ROUNDS: u32 = 20_000;
    let page = ShareablePage::new()?;
    // SAFETY: until it is killed, the child only accesses the shared page and makes system calls.
    let child = match unsafe { fork() }? {
        ForkResult::Child => loop {
            page.wait_for(1);
            page.hand_over(0);
        },
        ForkResult::Parent { child } => child,
    };
    let mut one = CpuSet::new();
    one.set(0)?;
    sched_setaffinity(child, &one)?;
    let result = on_cpu(&one, || {
        least(5, || {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                page.hand_over(1);
                page.wait_for(0);
            }
            Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS))
        })
    });
    kill(child, Signal::SIGKILL)?;
    waitpid(child, None)?;
    result
}

/// Calls `what` with the calling thread bound to these CPUs.
fn on_cpu<T>(cpus: &CpuSet, what: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let this = Pid::from_raw(0);
    let before = nix::sched::sched_getaffinity(this)?;
    sched_setaffinity(this, cpus)?;
    let result = what();
    sched_setaffinity(this, &before)?;
    result
}

/// Futex on a page that two processes share.
struct ShareablePage {
    word: &'static AtomicU32,
}

impl ShareablePage {
    fn new() -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: maps new memory, which is never unmapped.
        let page = unsafe { libc::mmap(ptr::null_mut(), 4096, protection, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: page-aligned, zeroed, mapped for the lifetime of the process, and accessed only
        // through atomics.
        Ok(Self { word: unsafe { &*page.cast() } })
    }

    fn hand_over(&self, to: u32) {
        self.word.store(to, Ordering::SeqCst);
        // SAFETY: the futex is an atomic.
        unsafe { libc::syscall(libc::SYS_futex, self.word.as_ptr(), libc::FUTEX_WAKE, 1) };
    }

    fn wait_for(&self, turn: u32) {
        while self.word.load(Ordering::SeqCst) != turn {
            let forever = ptr::null::<libc::timespec>();
            // SAFETY: the futex is an atomic.
            unsafe { libc::syscall(libc::SYS_futex, self.word.as_ptr(), libc::FUTEX_WAIT, 1 - turn, forever) };
        }
    }
}
