//! Unusual standard streams.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::fs::File;
use std::io::Read;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use super::{small_pipe, tender_with, text};

/// Closes these descriptors before the command starts.
fn close(command: &mut Command, descriptors: &'static [RawFd]) {
    // SAFETY: `close` is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            let failed = descriptors.iter().any(|fd| libc::close(*fd) != 0);
            if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        })
    };
}

#[test]
fn the_standard_output_is_the_guests_alone() {
    let output = tender_with("hello").arg("Hello_Solo5").output().unwrap();
    let console = text(&output.stdout);
    assert!(console.starts_with("hvt guest: ") && console.ends_with("SUCCESS\n"), "{console}");
    assert!(console.contains("Hello_Solo5"), "{console}");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn closed_streams_change_nothing() {
    for closed in [&[0][..], &[2], &[0, 2]] {
        let mut command = tender_with("hello");
        close(&mut command, closed);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{closed:?}");
        assert!(text(&output.stdout).ends_with("SUCCESS\n"), "{closed:?}");
    }
    for closed in [&[1][..], &[0, 1], &[0, 1, 2]] {
        let mut command = tender_with("hello");
        close(&mut command, closed);
        let output = command.output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{closed:?}");
    }
}

#[test]
fn a_guest_outlives_the_reader_of_its_output() {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    drop(reader);
    let output = tender_with("hello").stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "hvt-tender: warning: console output is lost: Broken pipe (os error 32)\n");
}

/// A pipe that is repeatedly full, in blocking and non-blocking mode.
#[test]
fn no_output_is_lost_to_a_slow_reader() {
    for nonblocking in [false, true] {
        let (reader, writer) = small_pipe();
        if nonblocking {
            fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        }
        let mut command = tender_with("output");
        let mut child = command.stdout(writer).spawn().unwrap();
        drop(command);
        let mut console = Vec::new();
        File::from(reader).read_to_end(&mut console).unwrap();
        assert!(child.wait().unwrap().success());
        let bytes: Vec<u8> = (0..64 << 10).map(|index| index as u8).collect();
        let start = console.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        assert!(console[start..].starts_with(&bytes) && console.ends_with(b"SUCCESS\n"));
    }
}

/// The standard input may be any descriptor: the write end of a pipe, or the standard output.
#[test]
fn the_standard_input_does_not_matter() {
    let (_reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let output = tender_with("hello").stdin(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let file = tempfile::tempfile().unwrap();
    let both = [file.try_clone().unwrap(), file];
    let [stdin, stdout] = both;
    let status = tender_with("hello").stdin(stdin).stdout(stdout).status().unwrap();
    assert!(status.success());
}

/// The messages of the tender have no reader, or their descriptor is closed. Run, status and output
/// do not change.
#[test]
fn a_run_does_not_wait_for_the_reader_of_its_messages() {
    let (_reader, full) = small_pipe();
    nix::unistd::write(&full, &[b'.'; 4096]).unwrap();
    let (reader, broken) = pipe2(OFlag::O_CLOEXEC).unwrap();
    drop(reader);
    for stderr in [full, broken] {
        let stderr = || Stdio::from(stderr.try_clone().unwrap());
        let mut command = super::tender();
        command.args(["-vv", "--mem=32", "--backend=process"]).arg(super::guest("hello")).stderr(stderr());
        let output = command.stdout(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).ends_with("SUCCESS\n"));
        let status = tender_with("port").args(["out32", "0x4ff"]).stdout(Stdio::null()).stderr(stderr()).status();
        assert_eq!(status.unwrap().code(), Some(1));
        assert_eq!(super::tender().arg("--frob").stderr(stderr()).status().unwrap().code(), Some(2));
    }
}
