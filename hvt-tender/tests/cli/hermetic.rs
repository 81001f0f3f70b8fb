//! Disks, networks and clocks that exist for a single run.

use std::fs;
use std::io;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use test_suite::Contents;
use test_suite::cases::block::BEFORE;
use test_suite::frame::{self, Host};

use super::signals::started;
use super::{assert_fails, guest, tender, text};

#[test]
fn a_disk_that_is_copied_stays_as_it_is() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("disk");
    let contents = |contents: Contents| {
        let mut bytes = vec![0; 16 * 512];
        contents.fill(0, &mut bytes);
        bytes
    };
    fs::write(&path, contents(BEFORE)).unwrap();
    let run = || {
        let mut command = tender();
        command.args(["--mem=32", "--backend=process", "--disk-cow"]).arg(format!("storage={}", path.display()));
        command.arg(guest("block")).args(["8192", "512"]).output().unwrap()
    };
    // The guest overwrites every block. The next run finds the original file.
    for _ in 0..2 {
        let output = run();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{}", text(&output.stdout));
    }
    assert!(fs::read(&path).unwrap() == contents(BEFORE));
}

#[test]
fn a_guest_that_takes_too_long_ends_with_124() {
    for backend_guest in ["sleep", "spin"] {
        let mut command = tender();
        command.args(["--mem=32", "--backend=process", "--timeout=200ms"]).arg(guest(backend_guest));
        let start = Instant::now();
        let output = command.stdout(Stdio::piped()).output().unwrap();
        assert!(start.elapsed() >= Duration::from_millis(200));
        let (status, message) = (output.status.code(), text(&output.stderr));
        assert_eq!((status, message), (Some(124), "hvt-tender: the guest did not exit within 200ms (--timeout)\n"));
    }
    let output = tender().args(["--mem=32", "--backend=process", "--timeout=1h"]).arg(guest("hello")).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

/// A day of guest time takes no real time. Without real devices, two runs are identical.
#[test]
fn virtual_time_takes_none() {
    let folder = TempDir::new().unwrap();
    let trace = folder.path().join("trace");
    let run = |options: &[&str], words: &[&str]| {
        let mut command = tender();
        command.args(["--mem=32", "--virtual-time", "--trace"]).arg(&trace).args(options).arg(guest(words[0]));
        let output = command.args(&words[1..]).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{}", text(&output.stdout));
        (output.stdout, fs::read(&trace).unwrap())
    };
    let start = Instant::now();
    let first = run(&[], &["sleep", "86400"]);
    assert!(start.elapsed() < Duration::from_secs(3600), "{:?}", start.elapsed());
    assert_eq!(first, run(&["--backend=auto"], &["sleep", "86400"]));
    assert_eq!(run(&[], &["time"]), run(&[], &["time"]));
    // The MAC address is also identical unless it is set explicitly.
    let net = |options: &[&str], words: &[&str]| run(options, &[&["net-edges"], words].concat());
    assert_eq!(net(&["--net=none"], &[]), net(&["--net=none"], &[]));
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        let output = tender().args(["--virtual-time", "--backend=kvm"]).arg(guest("sleep")).output().unwrap();
        assert_fails(&output, 1, "backend kvm does not support a virtual time; the process backend does");
    }
}

/// The guest polls without a timeout and has no network.
#[test]
fn a_guest_that_nothing_can_wake_in_virtual_time_ends() {
    let mut command = tender();
    command.args(["--mem=32", "--virtual-time", "--timeout=60s"]).arg(guest("sleep"));
    let output = command.output().unwrap();
    let expected = "hvt-tender: the guest sleeps forever: no event in its virtual time can wake it\n";
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), expected));
}

#[test]
fn a_network_without_anybody_else() {
    let mut command = tender();
    command.args(["--mem=32", "--backend=process", "--net:service=none", "--net-mac=02:00:00:00:00:2a"]);
    command.arg(guest("net")).args(["mac=02:00:00:00:00:2a", "mtu=1500"]);
    let (mut tender, _console) = started(command, "MTU 1500");
    assert_eq!(tender.try_wait().unwrap(), None, "the tender waits for frames");
    tender.kill().unwrap();
    tender.wait().unwrap();
}

/// The recording contains frames that no peer receives (draft-ietf-opsawg-pcap): a header of 24
/// bytes, then 16 bytes for each frame. The third group of four bytes is the frame's length.
#[test]
fn frames_of_a_guest_are_recorded() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("frames.pcap");
    let mut command = tender();
    command.args(["--mem=32", "--virtual-time"]).arg(format!("--net=pcap:{}", path.display())).arg(guest("ping"));
    let output = command.args(["count=3", "deadline=2000", "ip=10.0.0.7"]).output().unwrap();
    // The guest sends three ARP requests for an address without a host.
    assert!(text(&output.stdout).contains("FAILURE: no ARP reply from 10.0.0.2"), "{}", text(&output.stdout));
    let recorded = fs::read(&path).unwrap();
    let (header, frames) = recorded.split_at(24);
    assert_eq!(header[..4], 0xa1b2_3c4d_u32.to_le_bytes());
    let ours = Host { mac: [2, 0, 0, 0, 0, 1], ip: [10, 0, 0, 7] };
    let request = frame::arp_request(ours, Host { mac: [0; 6], ip: [10, 0, 0, 2] });
    let mut seconds = Vec::new();
    for record in frames.chunks(16 + request.len()) {
        let (header, frame) = record.split_at(16);
        assert_eq!(header[8..12], 42_u32.to_le_bytes());
        assert_eq!(frame, request);
        seconds.push(u32::from_le_bytes(header[..4].try_into().unwrap()));
    }
    // Timestamps are in guest time.
    assert_eq!(seconds.iter().map(|second| second - seconds[0]).collect::<Vec<_>>(), [0, 2, 4]);
}

/// The two tenders may start in any order. A tender may be replaced after its end.
#[test]
fn two_tenders_talk_through_a_socket() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("cable");
    let tender_with = |guest_name: &str, words: &[&str]| {
        let mut command = tender();
        command.args(["--mem=32", "--backend=process"]).arg(format!("--net=unix:{}", path.display()));
        command.arg(guest(guest_name)).args(words);
        command
    };
    let ping = || {
        let output = tender_with("ping", &["count=20", "deadline=30000"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stdout).contains("20 sent, 20 answered"), "{}", text(&output.stdout));
    };
    let (mut responder, _console) = started(tender_with("net", &[]), "MTU 1500");
    ping();
    ping();
    // A killed tender leaves its socket behind, and the next tender removes it.
    responder.kill().unwrap();
    responder.wait().unwrap();
    let (mut killed, _console) = started(tender_with("net", &[]), "MTU 1500");
    assert!(path.exists());
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(path.exists());
    let (mut pinger, mut console) = started(tender_with("ping", &["count=1000", "deadline=100"]), "PING");
    // The guest prints more than a pipe holds.
    let reading = thread::spawn(move || io::copy(&mut console, &mut io::sink()));
    let recording = folder.path().join("frames.pcap");
    let mut command = tender();
    command.args(["--mem=32", "--backend=process"]).arg(format!("--net=unix:{}", path.display()));
    command.arg("--net-pcap").arg(&recording).arg(guest("net")).arg("echos=100");
    let responder = command.output().unwrap();
    assert_eq!(responder.status.code(), Some(0), "{}", text(&responder.stdout));
    // An ARP request and reply, and an echo request and reply for each ping.
    let recorded = fs::read(&recording).unwrap();
    assert!(recorded.len() >= 24 + 2 * (16 + 42) + 200 * (16 + 98), "{}", recorded.len());
    pinger.kill().unwrap();
    pinger.wait().unwrap();
    reading.join().unwrap().unwrap();
}

/// Another program may hold the lock of the folder forever. The tender then starts and ends as
/// without the lock.
#[test]
fn a_folder_that_stays_locked_keeps_no_tender_from_its_end() {
    let folder = TempDir::new().unwrap();
    let lock = fs::File::open(folder.path()).unwrap();
    let tender_with = |option: &str| {
        let mut command = tender();
        command.args(["--mem=32", "--backend=process", option]);
        command.arg(format!("--net=unix:{}", folder.path().join("cable").display())).arg(guest("net"));
        command
    };
    lock.lock().unwrap();
    let output = tender_with("--timeout=300ms").output().unwrap();
    assert_eq!(output.status.code(), Some(124), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("another program has locked its folder"), "{}", text(&output.stderr));
    let (child, _console) = started(tender_with("--net-ring=off"), "MTU 1500");
    assert_terminates(child);
    lock.unlock().unwrap();
    // After the peer has closed, the tender must wait at the path again.
    let (first, _console) = started(tender_with("--net-ring=off"), "MTU 1500");
    let (second, _console) = started(tender_with("--net-ring=off"), "MTU 1500");
    lock.lock().unwrap();
    for child in [first, second] {
        assert_terminates(child);
    }
}

/// Sends SIGTERM to the tender and asserts that it terminates.
fn assert_terminates(child: Child) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("stopped by SIGTERM"), "{}", text(&output.stderr));
}
