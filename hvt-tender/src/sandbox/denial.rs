//! The last words of a tender that made a system call which its sandbox does not allow.

use std::fmt::{self, Write};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use syscalls::Sysno;

/// Under which name the words are said.
static PROGRAM: OnceLock<&'static str> = OnceLock::new();

/// A thread of this process is confined by a filter of its own.
static CONFINED: AtomicBool = AtomicBool::new(false);

/// Remembers that a thread of this process is about to be confined.
pub(super) fn confined() {
    CONFINED.store(true, Ordering::Relaxed);
}

/// Makes a system call that a [sandbox](super) does not allow say on the standard error which one it was, before the
/// process ends with SIGSYS. Without this it ends in silence. Sets the action of that signal for the whole process.
///
/// # Errors
/// When the host refuses.
pub fn explain(program: &'static str) -> io::Result<()> {
    let _ = PROGRAM.set(program);
    // The next SIGSYS ends the process, also one inside the handler.
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_RESETHAND | SaFlags::SA_NODEFER;
    let action = SigAction::new(SigHandler::SigAction(denied), flags, SigSet::empty());
    // SAFETY: the handler calls what is async-signal-safe only.
    unsafe { sigaction(Signal::SIGSYS, &action) }?;
    Ok(())
}

/// `SYS_SECCOMP` (`include/uapi/asm-generic/siginfo.h`): the signal comes from a filter.
const SYS_SECCOMP: libc::c_int = 1;

/// `siginfo_t` of a SIGSYS (sigaction(2)).
#[repr(C)]
struct SigSys {
    signal: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    padding: libc::c_int,
    /// Where the call was made.
    address: *mut libc::c_void,
    number: libc::c_int,
    architecture: libc::c_uint,
}

/// Runs as a signal handler, in a thread that may be in anybody's hands: writes, and ends the process.
extern "C" fn denied(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes the siginfo of the signal, whose layout this is and which is larger.
    let info = unsafe { &*info.cast::<SigSys>() };
    if info.code == SYS_SECCOMP {
        let program = PROGRAM.get().copied().unwrap_or("tender");
        let name = usize::try_from(info.number).ok().and_then(Sysno::new).map_or("unknown", |call| call.name());
        let (number, address) = (info.number, info.address as usize);
        let mut line = Line::new();
        // The guest has not run yet where no thread is confined.
        let _ = if CONFINED.load(Ordering::Relaxed) {
            writeln!(
                line,
                "{program}: stopped by its sandbox: it made the system call {name} (number {number}) at {address:#x}. If \
                 no unikernel was attacking, this is a bug: please report it; --no-sandbox goes around it"
            )
        } else {
            writeln!(
                line,
                "{program}: stopped by the filter of system calls that it was started under: {name} (number {number}) is \
                 not allowed: allow it in the container's seccomp profile, or in SystemCallFilter= of systemd"
            )
        };
        // SAFETY: the bytes are this line's.
        unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len) };
    }
    // Its action is the default again: this call does not return.
    // SAFETY: takes no pointers.
    unsafe { libc::raise(signal) };
}

/// Text of limited length, made without allocating.
struct Line {
    bytes: [u8; 320],
    len: usize,
}

impl Line {
    fn new() -> Self {
        Self { bytes: [0; 320], len: 0 }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            *self.bytes.get_mut(self.len).ok_or(fmt::Error)? = byte;
            self.len += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_loses_its_end() {
        let mut line = Line::new();
        assert!(line.write_str(&"x".repeat(400)).is_err());
        assert_eq!(line.len, 320);
    }
}
