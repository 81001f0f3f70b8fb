//! Termination signals. They terminate the tender in every state.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;

use super::{assert_fails, guest, small_pipe, tender, tender_with, text};

/// Starts the command and waits until it has printed a line that contains `words`.
pub(super) fn started(mut command: Command, words: &str) -> (Child, impl Read) {
    let (reader, writer) = small_pipe();
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    // The command holds the write end of the pipe and would keep it open.
    drop(command);
    let mut console = BufReader::new(File::from(reader));
    let mut line = String::new();
    while !line.contains(words) {
        line.clear();
        assert_ne!(console.read_line(&mut line).unwrap(), 0, "the guest ended early");
    }
    (child, console)
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// Asserts that the tender exits with status 1 and names `signal` as the reason.
fn assert_stopped_by(child: Child, signal: Signal) {
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), format!("hvt-tender: stopped by {signal}\n"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_guest_that_computes_or_sleeps_is_stopped() {
    for (guest, words) in [("spin", "spinning"), ("sleep", "sleeping")] {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let (child, _console) = started(tender_with(guest), words);
            send(&child, signal);
            assert_stopped_by(child, signal);
        }
    }
}

/// The output exceeds the size of the pipe, and no process reads it.
#[test]
fn a_guest_with_unread_output_is_stopped() {
    let (child, _console) = started(tender_with("output"), "hvt guest");
    send(&child, Signal::SIGTERM);
    assert_stopped_by(child, Signal::SIGTERM);
}

/// Signals that `nohup` ignores stay ignored. Signals that a shell ignores for background processes
/// do not: a user who sends one intends to stop the tender.
#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    for ended_by in [Signal::SIGTERM, Signal::SIGINT] {
        let mut command = tender_with("sleep");
        // SAFETY: `signal` is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                signal(Signal::SIGHUP, SigHandler::SigIgn)?;
                signal(Signal::SIGINT, SigHandler::SigIgn)?;
                Ok(())
            })
        };
        let (child, _console) = started(command, "sleeping");
        send(&child, Signal::SIGHUP);
        send(&child, ended_by);
        assert_stopped_by(child, ended_by);
    }
}

/// The host may kill the guest's process when it runs out of memory. The tender then ends as well,
/// even while the guest sleeps.
#[test]
fn a_tender_does_not_outlive_its_guest() {
    for (name, says) in [("sleep", "sleeping"), ("spin", "spinning")] {
        let mut command = tender();
        command.args(["--mem=32", "--backend=process", "--timeout=30s"]).arg(guest(name));
        let (tender, _console) = started(command, says);
        let id = tender.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        kill(Pid::from_raw(children.trim().parse().expect("one child")), Signal::SIGKILL).unwrap();
        let killed = Instant::now();
        assert_fails(
            &tender.wait_with_output().unwrap(),
            1,
            "its process ended (killed by SIGKILL; unless a user sent it, the host or its cgroup ran out of memory)",
        );
        assert!(killed.elapsed() < Duration::from_secs(15), "{name}: the tender noticed only its timeout");
    }
}

/// A killed tender cannot clean up. The process of its guest must end nevertheless.
#[test]
fn a_killed_tender_leaves_no_process_behind() {
    let (mut tender, _console) = started(tender_with("spin"), "spinning");
    let id = tender.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let guest: libc::pid_t = children.trim().parse().expect("one child");
    // SAFETY: The call takes no pointers, and the descriptor is new.
    let guest = unsafe { OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, guest, 0).try_into().unwrap()) };
    tender.kill().unwrap();
    tender.wait().unwrap();
    let mut ended = [PollFd::new(guest.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut ended, PollTimeout::from(10_000_u16)), Ok(1), "the guest's process is still alive");
}

/// Creates a FIFO without a peer in a folder of the test.
fn fifo(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("fifo");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    path
}

/// Waits until the tender sleeps in a system call, for a bounded time. An earlier signal also
/// terminates the tender.
fn asleep(tender: &Child) {
    let stat = format!("/proc/{}/stat", tender.id());
    for _ in 0..500 {
        let found = fs::read_to_string(&stat).unwrap();
        let state = found.rsplit(") ").next().unwrap().chars().next();
        if state == Some('S') {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The tender writes nothing to the FIFO before the reader opens it.
#[test]
fn a_wait_for_the_reader_of_a_fifo_is_stopped() {
    for option in ["--net-pcap", "--trace"] {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let folder = TempDir::new().unwrap();
            let mut command = tender();
            command.args(["--mem=32", "--backend=process", "--net=none", option]).arg(fifo(&folder)).arg(guest("net"));
            let tender = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            asleep(&tender);
            send(&tender, signal);
            assert_stopped_by(tender, signal);
        }
    }
}

/// Other FIFOs on the command line are refused immediately or already have a reader.
#[test]
fn other_fifos_are_refused_at_once() {
    let folder = TempDir::new().unwrap();
    let path = fifo(&folder);
    let path = path.to_str().unwrap();
    let (block, copy, cores) = (format!("--block={path}"), format!("--disk-cow={path}"), format!("--dumpcore={path}"));
    let read_only = [block.as_str(), "--block-readonly"];
    let app = guest("block");
    let app = app.to_str().unwrap();
    for (words, message) in [
        (&[path][..], "it is not a file"),
        (&[&block, app], "is neither a file nor a block device"),
        (&[read_only[0], read_only[1], app], "is neither a file nor a block device"),
        (&[&copy, app], "is neither a file nor a block device"),
        (&[&cores, app], "cannot write core files there: Not a directory"),
    ] {
        assert_fails(&tender().args(words).output().unwrap(), 1, message);
    }
}

/// A trace without a reader and a full standard output, before the guest starts and while it runs.
#[test]
fn a_full_fifo_is_no_reason_to_live_on() {
    let folder = TempDir::new().unwrap();
    let path = fifo(&folder);
    // The reader is held open and never reads.
    let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    fcntl(&reader, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let mut command = tender();
    command.args(["--mem=32", "--backend=process", "--trace"]).arg(&path).arg(guest("bench-walltime")).arg("100000");
    let tender = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut full = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut full, PollTimeout::from(10_000_u16)), Ok(1), "the trace does not begin");
    asleep(&tender);
    send(&tender, Signal::SIGTERM);
    let output = tender.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the trace of hypercalls is not complete: stopped while waiting for its reader"), "{said}");

    let (_reader, writer) = small_pipe();
    File::from(writer.try_clone().unwrap()).write_all(&[0; 4096]).unwrap();
    let help = tender_help(writer);
    asleep(&help);
    send(&help, Signal::SIGTERM);
    assert_eq!(help.wait_with_output().unwrap().status.code(), Some(1));
}

fn tender_help(stdout: OwnedFd) -> Child {
    tender().arg("--help").stdout(stdout).spawn().unwrap()
}
