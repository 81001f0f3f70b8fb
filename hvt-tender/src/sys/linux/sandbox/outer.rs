//! System calls that an inherited filter denies: the filter of a container runtime or of a service
//! manager (`SystemCallFilter=` of systemd).
//!
//! Such a filter returns an error for a call that it does not list, or ends the process. A child
//! process tries each call once to get the answer.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use libc::c_long;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// Answer of a filter to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The call reaches the kernel.
    Allowed,
    /// The call returns an error: usually EPERM or ENOSYS.
    Refused,
    /// The call ends the process.
    Fatal,
}

/// Returns whether the process can make this call. `number` must be a call that fails without
/// effect if all of its arguments are -1.
///
/// A call that the kernel does not support counts as not allowed, but only under a filter. Without
/// a filter nothing is tried, and the caller must handle ENOSYS in any case.
pub(crate) fn allows(number: c_long) -> bool {
    static KNOWN: Mutex<BTreeMap<c_long, Answer>> = Mutex::new(BTreeMap::new());
    // A filter stays for the life of the process.
    static THERE: OnceLock<bool> = OnceLock::new();
    if !THERE.get_or_init(is_there) {
        return true;
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    *known.entry(number).or_insert_with(|| ask(number)) == Answer::Allowed
}

/// Returns the name of the first of these calls that the process cannot make.
pub(crate) fn missing(calls: &[(c_long, &'static str)]) -> Option<&'static str> {
    calls.iter().find(|(number, _)| !allows(*number)).map(|(_, name)| *name)
}

/// Returns the error for a call that a filter does not allow.
pub(crate) fn refusal(call: &str) -> io::Error {
    let message = format!("the inherited filter of system calls does not allow {call}");
    io::Error::new(io::ErrorKind::PermissionDenied, message)
}

/// Returns whether the calling thread is under a filter.
fn is_there() -> bool {
    /// `SECCOMP_MODE_FILTER` (prctl(2)).
    const FILTER: libc::c_int = 2;
    // SAFETY: the call takes no pointers.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP) == FILTER }
}

/// Makes the call in a child process, and returns the filter's answer.
fn ask(number: c_long) -> Answer {
    let mut before = SigSet::empty();
    // Handlers of this process must not run in the child. The kernel resets a blocked SIGSYS to its
    // default.
    if sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before)).is_err() {
        return Answer::Allowed;
    }
    // Not with CLONE_VM: kernels before 5.16 kill all processes of an address space if SIGSYS kills
    // one of them.
    // SAFETY: as fork(2), but without the C library's preparations: the child makes only system
    // calls.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    if pid == 0 {
        // SAFETY: no call gets a valid pointer. The child ends with the last call.
        unsafe {
            // No core file of a child that is expected to die.
            libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
            let refused = libc::syscall(number, -1, -1, -1, -1, -1, -1) == -1
                && matches!(*libc::__errno_location(), libc::EPERM | libc::ENOSYS);
            libc::_exit(i32::from(refused));
        }
    }
    let answer = if pid > 0 { wait(pid) } else { Answer::Allowed };
    // The mask was this thread's mask, so setting it again does not fail.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    answer
}

/// Waits until the child has ended.
fn wait(pid: c_long) -> Answer {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return Answer::Allowed };
    // All signals are blocked, so nothing interrupts the calls. The child sends no SIGCHLD, so
    // waiting for it requires __WALL.
    // SAFETY: `siginfo_t` is plain data, for which all zeros are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::__WALL;
    // SAFETY: `info` is a local variable that the call fills in.
    if unsafe { libc::waitid(libc::P_PID, pid.cast_unsigned(), &raw mut info, options) } == 0 {
        // SAFETY: waitid(2) has filled in the fields of a SIGCHLD.
        return answer(info.si_code == libc::CLD_EXITED, unsafe { info.si_status() });
    }
    // The filter may deny waitid(2) itself; wait4(2) does the same.
    let mut status = 0;
    // SAFETY: `status` is a local variable that the call fills in.
    if unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } == pid {
        return answer(libc::WIFEXITED(status), libc::WEXITSTATUS(status));
    }
    Answer::Allowed
}

/// Returns the filter's answer, from the exit or the death of the child.
fn answer(exited: bool, status: libc::c_int) -> Answer {
    match (exited, status) {
        (true, 0) => Answer::Allowed,
        (true, _) => Answer::Refused,
        (false, _) => Answer::Fatal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

    /// The filter applies to the thread of the test only.
    #[test]
    fn a_child_finds_out_what_a_filter_answers() {
        let answers = std::thread::spawn(|| {
            assert!(!is_there());
            assert_eq!(ask(libc::SYS_close_range), Answer::Allowed);
            nix::sys::prctl::set_no_new_privs().unwrap();
            for (number, action) in [
                (libc::SYS_close_range, SeccompAction::Errno(libc::EPERM as u32)),
                (libc::SYS_capget, SeccompAction::KillProcess),
                (libc::SYS_memfd_create, SeccompAction::Trap),
            ] {
                let arch = std::env::consts::ARCH.try_into().unwrap();
                let rules = [(number, Vec::new())].into_iter().collect();
                let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch).unwrap();
                apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
            }
            assert!(is_there());
            [libc::SYS_close_range, libc::SYS_capget, libc::SYS_memfd_create, libc::SYS_execveat].map(ask)
        });
        let answers = answers.join().unwrap();
        assert_eq!(answers, [Answer::Refused, Answer::Fatal, Answer::Fatal, Answer::Allowed]);
    }
}
