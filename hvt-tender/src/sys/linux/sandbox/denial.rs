//! Message of a tender that made a system call that its sandbox does not allow.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::fmt::{self, Write};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use syscalls::Sysno;

/// Name of the program, which begins the message.
static PROGRAM: OnceLock<&'static str> = OnceLock::new();

/// Set once a thread of this process is confined by the sandbox's filter.
static CONFINED: AtomicBool = AtomicBool::new(false);

/// Records that a thread of this process is about to be confined.
pub(super) fn confined() {
    CONFINED.store(true, Ordering::Relaxed);
}

/// Installs a handler for SIGSYS in the whole process. Before the process ends, the handler writes
/// the system call that the [sandbox](super) has denied to the standard error. Without the handler,
/// the process ends without a message.
///
/// # Errors
/// Returns the error of sigaction(2).
pub fn explain(program: &'static str) -> io::Result<()> {
    let _ = PROGRAM.set(program);
    // The next SIGSYS ends the process, including a SIGSYS in the handler.
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_RESETHAND | SaFlags::SA_NODEFER;
    let action = SigAction::new(SigHandler::SigAction(denied), flags, SigSet::empty());
    // SAFETY: the handler calls only async-signal-safe functions.
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
    /// Address of the call.
    address: *mut libc::c_void,
    number: libc::c_int,
    architecture: libc::c_uint,
}

/// Signal handler, in a thread that an attacker may control: writes the message and ends the
/// process.
extern "C" fn denied(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes the `siginfo_t` of the signal. It has this layout and is larger.
    let info = unsafe { &*info.cast::<SigSys>() };
    if info.code == SYS_SECCOMP {
        let program = PROGRAM.get().copied().unwrap_or("tender");
        let name = usize::try_from(info.number).ok().and_then(Sysno::new).map_or("unknown", |call| call.name());
        let (number, address) = (info.number, info.address as usize);
        let mut line = Line::new();
        // If no thread is confined, the guest has not run yet.
        let _ = if CONFINED.load(Ordering::Relaxed) {
            writeln!(
                line,
                "{program}: stopped by its sandbox: system call {name} (number {number}) at {address:#x} is not allowed: if \
                 the unikernel is trusted, this is a bug: please report it; --no-sandbox works around it"
            )
        } else {
            writeln!(
                line,
                "{program}: stopped by an inherited filter of system calls: {name} (number {number}) is \
                 not allowed: allow it in the container's seccomp profile, or in SystemCallFilter= of systemd"
            )
        };
        // SAFETY: the bytes belong to this line.
        unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len) };
    }
    // The action of the signal is the default again, so this call does not return.
    // SAFETY: the call takes no pointers.
    unsafe { libc::raise(signal) };
}

/// Text of limited length, formatted without allocation.
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
