//! Container runtimes that filter system calls: the tender runs with the calls that
//! `docs/threat-model.md` lists. The tests run on the backend that every machine has, or on the
//! backends in `HVT_BACKENDS`.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};
use syscalls::Sysno;
use tempfile::TempDir;

use super::net::{in_own_network, run};
use super::{assert_fails, guest, tender, text};

/// System calls that the runtime urunc allows `solo5-hvt` on x86_64. Every other call raises
/// SIGSYS.
const URUNC: &str = "rt_sigaction ioctl pread64 mmap recvmsg openat sendto mprotect write epoll_ctl epoll_create1 read \
     close fstat munmap brk execve timerfd_create lseek personality socket bind getsockname exit exit_group getpid tgkill \
     nanosleep futex epoll_pwait rt_sigreturn timerfd_settime pwrite64 set_tid_address set_robust_list rseq prlimit64 \
     getrandom open stat access arch_prctl newfstatat";

const STARTING: [&str; 3] = ["starting, a static", "starting, the tender", "giving up rights"];
const PROCESS: &str = "the process backend";
const DEVICES: &str = "sleeping, network and block";
const THREADS: &str = "threads";

/// Returns the calls in the row that begins with `line` in the table of required calls.
fn listed(line: &str) -> impl Iterator<Item = &'static str> {
    let page = include_str!("../../../docs/threat-model.md");
    let (_, table) = page.split_once("| what for | calls |").expect("a table");
    let words = |cell: &str| cell.trim().trim_start_matches('`').to_owned();
    let mut cells = table.lines().map(|line| line.trim_matches('|').split_once('|'));
    let found = cells.find_map(|cells| cells.filter(|(what, _)| words(what).starts_with(line)));
    let (_, calls) = found.unwrap_or_else(|| panic!("no line begins with {line}"));
    // The text between backticks is every second piece.
    calls.split('`').skip(1).step_by(2)
}

/// Returns a filter that allows these calls and the calls of urunc.
fn filter(lines: &[&str]) -> BpfProgram {
    filter_without(&[], lines, SeccompAction::Trap)
}

/// Returns a filter that allows these calls and the calls of urunc, except the calls in `without`.
fn filter_without(without: &[&str], lines: &[&str], otherwise: SeccompAction) -> BpfProgram {
    let calls = URUNC.split_whitespace().chain(lines.iter().flat_map(|line| listed(line)));
    let calls = calls.filter(|call| !without.contains(call));
    let rules = calls.map(|call| {
        let number: Sysno = call.parse().unwrap_or_else(|_| panic!("{call} is no system call"));
        (i64::from(number.id()), Vec::new())
    });
    let arch = TargetArch::x86_64;
    let filter = SeccompFilter::new(rules.collect(), otherwise, SeccompAction::Allow, arch).unwrap();
    filter.try_into().unwrap()
}

fn backends() -> Vec<String> {
    let names = std::env::var("HVT_BACKENDS").unwrap_or_else(|_| "process".into());
    names.split(',').map(str::to_owned).collect()
}

/// Runs the tender on each backend with these arguments under a filter that allows the calls in
/// these rows. Asserts that it ends with `status`.
#[track_caller]
fn check(lines: &[&str], status: i32, words: &[&str]) {
    for backend in backends() {
        let own = if backend == "kvm" { "guest memory on KVM" } else { PROCESS };
        let filter = filter(&[&STARTING[..], &[own], lines].concat());
        let mut command: Command = tender();
        command.args(["--mem=32", "--backend", &backend]).args(words);
        let confine = move || apply_filter(&filter).map_err(std::io::Error::other);
        // SAFETY: If they succeed, the calls are only system calls, which are async-signal-safe.
        unsafe { command.pre_exec(confine) };
        let output = command.output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.signal(), None, "{backend}: {words:?}: {said}");
        assert_eq!(output.status.code(), Some(status), "{backend}: {words:?}: {}{said}", text(&output.stdout));
    }
}

fn app(name: &str) -> String {
    guest(name).to_str().unwrap().to_owned()
}

#[test]
fn starts_sleeps_and_ends() {
    check(&[], 0, &[&app("hello")]);
    check(&[DEVICES], 0, &[&app("sleep"), "0"]);
    check(&[], 1, &[&app("port"), "out32", "0x4ff"]);
    check(&[THREADS], 0, &["--timeout=1h", &app("hello")]);
}

#[test]
fn has_disks_and_core_files() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("disk.img");
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let option = format!("--block:storage={}", path.display());
    check(&[DEVICES], 0, &[&option, &app("bench-block"), "3"]);
    let option = format!("--dumpcore={}", folder.path().display());
    check(&["--dumpcore"], 255, &[&option, &app("abort")]);
}

#[test]
fn has_networks() {
    let apps = ["net-edges", "bench-net"].map(app);
    let folder = TempDir::new().unwrap();
    let cable = format!("--net:service=unix:{}", folder.path().join("cable").display());
    check(&[DEVICES, THREADS, "--net:NAME=unix:PATH"], 0, &[&cable, &apps[0]]);
    in_own_network(move || {
        run("ip tuntap add tap0 mode tap");
        run("ip link set tap0 up");
        let [edges, sends] = &apps;
        check(&[DEVICES, THREADS], 0, &["--net:service=tap0", edges]);
        check(&[DEVICES, THREADS], 0, &["--net:service=tap0", "--net-ring=on", sends, "30"]);
        check(&[DEVICES], 0, &["--net:service=tap0", "--net-ring=off", sends, "30"]);
        if cfg!(feature = "user-net") {
            check(&[DEVICES, THREADS], 0, &["--net:service=user", edges]);
        }
    });
}

#[test]
fn becomes_another_user() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test becomes another user: run it as root");
        eprintln!("SKIPPED: this test becomes another user, which requires root");
        return;
    }
    let folder = TempDir::new().unwrap();
    let root = format!("--chroot={}", folder.path().display());
    check(&["--user`, `--chroot"], 0, &["--user=65534:65534", &root, &app("hello")]);
}

/// Returns a command that runs `hello` on the process backend with a filter that fails this call
/// with EPERM if its arguments satisfy `rules`. The tender is killed after a minute, far more than
/// it needs.
fn where_refused(call: Sysno, rules: Vec<SeccompRule>) -> Command {
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let rules = [(i64::from(call.id()), rules)].into();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, TargetArch::x86_64).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "60"]).arg(super::program()).args(["--mem=32", "--backend=process"]);
    command.arg(guest("hello")).env_remove("RUST_LOG");
    let confine = move || apply_filter(&filter).map_err(std::io::Error::other);
    // SAFETY: If they succeed, the calls are only system calls, which are async-signal-safe.
    unsafe { command.pre_exec(confine) };
    command
}

#[test]
fn a_call_that_is_refused_is_named_before_there_is_a_guest() {
    for call in [Sysno::execveat, Sysno::pidfd_send_signal, Sysno::waitid] {
        let output = where_refused(call, Vec::new()).output().unwrap();
        assert_fails(
            &output,
            1,
            &format!("backend process is not available: the inherited filter of system calls does not allow {call}"),
        );
    }
}

/// A filter that checks arguments can refuse a call that it allowed at the start.
#[test]
fn a_guest_that_cannot_be_killed_is_not_waited_for() {
    // The filter matches every descriptor except the descriptor of the probe at the start.
    let real = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Lt, 1 << 20).unwrap();
    let rule = SeccompRule::new(vec![real]).unwrap();
    let output = where_refused(Sysno::pidfd_send_signal, vec![rule]).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("cannot be killed: Operation not permitted (os error 1): it ends with this thread"),
        "{said}"
    );
}

/// Returns the actions of filters for calls that they do not allow.
fn answers() -> [SeccompAction; 4] {
    let errno = |errno: i32| SeccompAction::Errno(errno as u32);
    [errno(libc::EPERM), errno(libc::ENOSYS), SeccompAction::Trap, SeccompAction::KillProcess]
}

/// Runs a guest on the process backend under a filter that does not allow the calls in `without`.
fn run_without(without: &[&str], otherwise: SeccompAction) -> Output {
    let filter = filter_without(without, &[&STARTING[..], &[PROCESS]].concat(), otherwise);
    let mut command: Command = tender();
    command.args(["--mem=32", "--backend=process"]).arg(guest("hello"));
    let confine = move || apply_filter(&filter).map_err(std::io::Error::other);
    // SAFETY: If they succeed, the calls are only system calls, which are async-signal-safe.
    unsafe { command.pre_exec(confine) };
    command.output().unwrap()
}

/// Of the calls that confine a process, `@system-service` of systemd allows only `prctl`.
#[test]
fn a_filter_without_landlock_costs_landlock_alone() {
    let without = ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp"];
    for otherwise in answers() {
        let output = run_without(&without, otherwise.clone());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{otherwise:?}: {}: {said}", output.status);
        let words = "hvt-tender: warning: the sandbox has no landlock: the inherited filter of system calls does not \
                     allow landlock_create_ruleset: ";
        assert!(said.starts_with(words) && said.matches('\n').count() == 1, "{otherwise:?}: {said}");
    }
}

/// Filters of container runtimes that predate `close_range`, which Linux has since 5.9.
#[test]
fn a_filter_without_close_range_costs_nothing() {
    for otherwise in answers() {
        let output = run_without(&["close_range"], otherwise.clone());
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{otherwise:?}: {}", output.status);
    }
}

#[test]
fn a_call_that_a_filter_does_not_allow_is_named() {
    for otherwise in answers() {
        let backend = "hvt-tender: backend process is not available: ";
        let own = "hvt-tender: the sandbox cannot be set up: dropping capabilities: ";
        for (call, of) in [("memfd_create", backend), ("execveat", backend), ("capget", own)] {
            let output = run_without(&[call], otherwise.clone());
            let words = format!("{of}the inherited filter of system calls does not allow {call}\n");
            assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), words.as_str()), "{otherwise:?}");
        }
    }
    let filter = filter_without(&["chroot"], &[&STARTING[..], &[PROCESS]].concat(), SeccompAction::KillProcess);
    let mut command: Command = tender();
    command.args(["--mem=32", "--backend=process", "--chroot=/"]).arg(guest("hello"));
    let confine = move || apply_filter(&filter).map_err(std::io::Error::other);
    // SAFETY: As above.
    unsafe { command.pre_exec(confine) };
    assert_fails(&command.output().unwrap(), 1, "does not allow chroot");
    // If the filter permits it, the tender prints the message itself.
    let output = run_without(&["eventfd2"], SeccompAction::Trap);
    let said = text(&output.stderr);
    let words = "hvt-tender: stopped by an inherited filter of system calls: eventfd2 (number 290) is not allowed: \
                 allow it in ";
    assert!(said.starts_with(words) && said.matches('\n').count() == 1, "{said}");
    assert_eq!(output.status.signal(), Some(libc::SIGSYS));
}
