//! Limits of the host (setrlimit(2), sysctl): the tender raises soft limits, and reports a hard
//! limit that is too low in one line.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, geteuid};

use super::{assert_fails, guest, tender, text};

const MIB: u64 = 1 << 20;

/// Runs a guest with this memory size after `limit` was called in the tender's process.
fn run(mem: u64, limit: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> Output {
    let mut command: Command = tender();
    command.args([format!("--mem={mem}"), "--backend=process".into()]).arg(guest("hello"));
    // SAFETY: The closure makes only system calls, which are async-signal-safe.
    unsafe { command.pre_exec(limit) };
    command.output().unwrap()
}

#[track_caller]
fn assert_runs(output: &Output) {
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

/// Returns a function that sets the soft limit, and the hard limit if `hard` is set.
fn limit(resource: Resource, most: u64, hard: bool) -> impl FnMut() -> io::Result<()> {
    move || Ok(setrlimit(resource, most, if hard { most } else { getrlimit(resource)?.1 })?)
}

#[test]
fn soft_limits_are_raised() {
    for (resource, most) in
        [(Resource::RLIMIT_FSIZE, MIB), (Resource::RLIMIT_AS, 64 * MIB), (Resource::RLIMIT_NOFILE, 6)]
    {
        assert_runs(&run(512, limit(resource, most, false)));
    }
}

#[test]
fn hard_limits_are_named() {
    let named = |resource, most, words| assert_fails(&run(512, limit(resource, most, true)), 1, words);
    let words =
        "the limit on file sizes is 1048576 bytes and applies to guest memory: raise it (ulimit -f, RLIMIT_FSIZE)";
    named(Resource::RLIMIT_FSIZE, MIB, words);
    let words = "the limit on address space is 67108864 bytes: raise it (ulimit -v, RLIMIT_AS)";
    named(Resource::RLIMIT_AS, 64 * MIB, words);
    let words = "the limit on open descriptors is 6: raise it (ulimit -n, RLIMIT_NOFILE)";
    named(Resource::RLIMIT_NOFILE, 6, words);
}

/// The sysctl belongs to a PID namespace.
#[test]
fn memory_that_cannot_be_executed_is_named() {
    const SETTING: &std::ffi::CStr = c"/proc/sys/vm/memfd_noexec";
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test creates a PID namespace: run it as root");
        eprintln!("SKIPPED: this test creates a PID namespace, which requires root");
        return;
    }
    if !std::path::Path::new("/proc/sys/vm/memfd_noexec").exists() {
        eprintln!("this kernel has no vm.memfd_noexec (Linux 6.3)");
        return;
    }
    let forbid = || {
        // SAFETY: The path ends with a NUL, and pointer and length describe the string.
        let written = unsafe {
            let file = libc::open(SETTING.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            libc::write(file, c"2".as_ptr().cast(), 1)
        };
        if written == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // Builds the unikernels before the fork. Another thread may be building them, and a forked
    // process would wait forever for a lock that this thread holds.
    guest("hello");
    // The forked process creates the PID namespace. Only its children are in the namespace.
    // SAFETY: The child has only this thread. It takes no lock that another thread may hold, except
    // the lock of the allocator, which the C library keeps usable. It ends without running the exit
    // handlers of other tests.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID).unwrap();
            let output = run(32, forbid);
            let said = text(&output.stderr);
            let named = said.contains("this host forbids executing memfds (sysctl vm.memfd_noexec is 2)")
                && said.matches('\n').count() == 1;
            if !named {
                eprintln!("{said}");
            }
            let status = i32::from(!named || output.status.code() != Some(1));
            // SAFETY: The call terminates the process.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0)),
    }
}
