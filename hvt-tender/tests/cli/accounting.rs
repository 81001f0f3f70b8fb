//! CPU time of the guest as the host accounts it to the tender. The tests run on each backend of
//! this machine, or on the backends in `HVT_BACKENDS`.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::{guest, tender};

/// Returns the CPU time that a process has used so far, without its terminated children: `utime`
/// and `stime` of `/proc/PID/stat` (proc(5)).
fn cpu_time(process: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The second field, in parentheses, is the program's name. The remainder begins with the third
    // field.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = rest.split(' ').skip(14 - 3).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap().unsigned_abs();
    Duration::from_millis(ticks * 1000 / per_second)
}

/// Waits for the end of the process, and returns the CPU time that the kernel reports for it.
fn wait(process: i32) -> Duration {
    let mut status = 0;
    // SAFETY: `rusage` consists of integers, for which zero is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: Both pointers refer to locals that the call fills in.
    assert_eq!(unsafe { libc::wait4(process, &raw mut status, 0, &raw mut usage) }, process);
    let time =
        |time: libc::timeval| Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64);
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// On KVM the guest is a thread of the tender. On the process backend it is the tender's only
/// child, and its CPU time counts for the tender after the child has ended.
#[test]
#[expect(clippy::zombie_processes, reason = "`wait` waits for the child and returns its usage")]
fn what_a_guest_uses_is_the_tenders() {
    const ENOUGH: Duration = Duration::from_millis(200);
    let backends = std::env::var("HVT_BACKENDS").unwrap_or_else(|_| "process".into());
    for backend in backends.split(',') {
        let mut command = tender();
        command
            .args(["--mem=32", "--backend", backend])
            .arg(guest("spin"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let process = i32::try_from(child.id()).unwrap();
        let console = BufReader::new(child.stdout.take().unwrap());
        assert!(console.lines().any(|line| line.unwrap() == "spinning"), "{backend}: the guest ended early");
        let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap();
        let children: Vec<i32> = children.split_whitespace().map(|child| child.parse().unwrap()).collect();
        let whose = match (backend, children.as_slice()) {
            ("kvm", []) => process,
            ("process", [guest]) => *guest,
            other => panic!("{other:?}"),
        };
        while cpu_time(whose) < ENOUGH {
            thread::sleep(Duration::from_millis(5));
        }
        if backend == "process" {
            assert!(cpu_time(process) < ENOUGH, "the tender has used as much CPU time as the guest");
        }
        kill(Pid::from_raw(process), Signal::SIGTERM).unwrap();
        let used = wait(process);
        assert!(used >= ENOUGH, "{backend}: {used:?}");
    }
}
