//! Command line of the `hvt-tender` binary: exit statuses, streams and signals.

mod accounting;
mod block;
mod c;
mod core_dump;
mod cpu;
mod debugger;
mod hermetic;
mod jail;
mod limits;
mod net;
mod packets;
#[cfg(target_arch = "x86_64")]
mod runtime;
mod sandbox;
mod signals;
mod solo5;
mod streams;
#[cfg(feature = "user-net")]
mod user;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

/// Returns the path of the test unikernel with this name.
fn guest(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY
        .get_or_init(|| test_suite::guests::directory(env!("CARGO_BIN_EXE_hvt-elftool")).expect("test unikernels"))
        .join(name)
}

/// Returns the path of the tender: the binary of this build, or `HVT_TENDER`.
fn program() -> PathBuf {
    std::env::var_os("HVT_TENDER").unwrap_or_else(|| env!("CARGO_BIN_EXE_hvt-tender").into()).into()
}

/// Returns a command that runs the tender.
fn tender() -> Command {
    let mut command = Command::new(program());
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Returns the backend for tests that do not depend on the backend: the backend in `HVT_BACKENDS`,
/// or the backend that every machine has.
fn backend() -> String {
    let named = std::env::var("HVT_BACKENDS").ok().filter(|names| !names.contains(','));
    named.unwrap_or_else(|| "process".to_owned())
}

/// Returns a command that runs this guest on the backend that every machine has.
fn tender_with(guest_name: &str) -> Command {
    let mut command = tender();
    command.args(["--mem=32", "--backend=process"]).arg(guest(guest_name));
    command
}

/// Returns the same command with `solo5-hvt` as the name of the program.
fn as_solo5_hvt(mut command: Command) -> Command {
    command.arg0("/usr/bin/solo5-hvt");
    command
}

/// Copies a program to a location where every user may execute it. A separate process makes the
/// copy: a program that is open for writing cannot be executed, and a process that another test
/// starts concurrently would keep the file open.
fn copy_program(from: &Path, to: &Path) {
    let output = Command::new("cp").arg("--").arg(from).arg(to).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Creates a pipe that holds one page.
fn small_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    (reader, writer)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Asserts that the tender failed with this status and one line that contains `words`, and printed
/// nothing else.
#[track_caller]
fn assert_fails(output: &Output, status: i32, words: &str) {
    assert_program_fails("hvt-tender", output, status, words);
}

/// Variant of [`assert_fails`] for a program with this name.
#[track_caller]
fn assert_program_fails(name: &str, output: &Output, status: i32, words: &str) {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{message}");
    assert!(message.starts_with(&format!("{name}: ")) && message.contains(words), "{message}");
    assert!(message.ends_with('\n') && message.matches('\n').count() == 1, "{message}");
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn help_and_version_go_to_the_standard_output() {
    for (option, words) in [("--help", "Usage: hvt-tender"), ("--version", "ABI version 2")] {
        let output = tender().arg(option).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty());
        assert!(text(&output.stdout).contains(words));
    }
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    for (words, message) in [
        (&[][..], "no unikernel given: KERNEL is missing; see hvt-tender --help"),
        (&["--frob", "app"], "unknown option '--frob'; see hvt-tender --help"),
        (&["--mem=much", "app"], "--mem: invalid value 'much': expected a number of MB"),
    ] {
        assert_fails(&tender().args(words).output().unwrap(), 2, message);
    }
}

#[test]
fn what_cannot_be_run_ends_with_1() {
    assert_fails(&tender().arg("/nowhere/app").output().unwrap(), 1, "cannot read /nowhere/app: No such file");
    assert_fails(&tender().arg("/bin/true").output().unwrap(), 1, "/bin/true: not a unikernel");
    assert_fails(&tender().arg("--mem=8192").arg(guest("hello")).output().unwrap(), 1, "2 to 4096 MB");
    assert_fails(&tender().arg(guest("net")).output().unwrap(), 1, "'service' declared but not attached");
    let two_lines = tender().arg("/nowhere/two\nlines").output().unwrap();
    assert_fails(&two_lines, 1, "/nowhere/two\\nlines");
}

#[test]
fn the_status_is_the_guests() {
    for (argument, status) in [("0", 0), ("1", 1), ("2", 2), ("255", 255), ("256", 0), ("4294967295", 255), ("300", 44)]
    {
        let output = tender_with("exit").arg(argument).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{argument}: {}", text(&output.stderr));
    }
}

/// The report contains the reason, the location and the registers.
#[test]
fn reports_a_guest_that_is_stopped() {
    let output = tender_with("port").args(["out32", "0x4ff"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report = text(&output.stderr);
    let mut lines = report.lines();
    let what = lines.next().unwrap();
    let said =
        what.strip_prefix("hvt-tender: the guest wrote 4 bytes to I/O port 0x4ff, which is not a hypercall (rip=");
    let rip = said.and_then(|rest| rest.strip_suffix(')')).expect(report);
    let place = lines.next().unwrap();
    assert!(place.starts_with("hvt-tender:   in ") && place.contains("+0x"), "{report}");
    assert!(lines.next().unwrap().starts_with(&format!("hvt-tender:   rip={rip} rsp=0x")), "{report}");
    assert!(lines.next().unwrap().ends_with(" rdx=0x4ff"), "{report}");
    assert!(report.lines().all(|line| line.starts_with("hvt-tender: ")), "{report}");
}

#[test]
fn verbose_prints_more() {
    let run = |options: &[&str], log: Option<&str>| {
        let mut command = tender();
        command.envs(log.map(|log| ("RUST_LOG", log))).arg("--mem=3").args(options);
        command.arg(guest("hello")).output().unwrap()
    };
    let output = run(&["--backend=process"], None);
    assert_eq!(text(&output.stderr), "hvt-tender: warning: guest memory is rounded to 2 MB, a multiple of 2 MB\n");
    let output = run(&["--backend=process", "-vv"], None);
    assert!(text(&output.stderr).contains("hvt-tender: debug: backend "), "{}", text(&output.stderr));
    let output = run(&["--backend=process"], Some("off"));
    assert_eq!(text(&output.stderr), "");
    assert!(text(&output.stdout).ends_with("SUCCESS\n"));
}

#[test]
fn a_trace_has_a_line_for_every_hypercall() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut command = tender();
    command.args(["--mem=32", "--backend=process", "--trace"]).arg(file.path()).arg(guest("hello"));
    assert!(command.status().unwrap().success());
    let trace = std::fs::read_to_string(file.path()).unwrap();
    let lines: Vec<_> = trace.lines().collect();
    assert!(lines.len() >= 2 && lines.iter().all(|line| line.starts_with("{\"number\":") && line.ends_with("}}")));
    assert!(lines[0].contains("\"name\":\"puts\""), "{trace}");
    assert!(lines[lines.len() - 1].ends_with("\"result\":{\"status\":0}}"), "{trace}");
    let output = tender().arg("--trace=/nothing/here").arg(guest("hello")).output().unwrap();
    assert_fails(&output, 1, "/nothing/here: cannot be written");
    let output = tender().args(["--mem=32", "--backend=process", "--trace=/dev/full"]).arg(guest("hello")).output();
    let output = output.unwrap();
    let lost = "hvt-tender: warning: the trace of hypercalls is not complete: No space left on device (os error 28)\n";
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), lost));
}
