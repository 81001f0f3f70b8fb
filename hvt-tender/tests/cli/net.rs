//! Taps, attached by name or by descriptor, in a network namespace of the test. The peer is the
//! host's `ping`.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use super::signals::started;
use super::{assert_fails, copy_program, guest, tender, text};

/// An unprivileged user.
const NOBODY: u32 = 65534;

/// Runs `test` in a new network namespace, which requires root. Without root the test is skipped
/// with a message; a continuous integration without root fails.
pub(super) fn in_own_network(test: impl FnOnce() + Send + 'static) {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test creates a network namespace: run it as root");
        eprintln!("SKIPPED: this test creates a network namespace, which requires root");
        return;
    }
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Runs a program of the host and asserts that it succeeds.
pub(super) fn run(line: &str) {
    let words: Vec<_> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(output.status.success(), "{line}: {}{}", text(&output.stdout), text(&output.stderr));
}

/// Creates a tap with the address 10.0.0.1 and an unusual MTU.
fn make_tap() {
    run("ip tuntap add tap0 mode tap");
    run("ip addr add 10.0.0.1/24 dev tap0");
    run("ip link set tap0 mtu 1400 up");
}

/// Runs the guest on the tap that `attach` adds to its command line, and pings the guest.
fn answers_a_ping(app: &Path, attach: impl FnOnce(&mut Command)) {
    let mut command = tender();
    command.args(["--mem=32", "--backend=process", "--net-mac", "02:00:00:00:00:2a"]);
    attach(&mut command);
    command.arg(app).args(["ip=10.0.0.2", "mtu=1400", "mac=02:00:00:00:00:2a", "echos=5"]);
    // Before the guest has started, the interface drops frames.
    let (tender, mut console) = started(command, "MTU");
    run("ping -q -c 3 -i 0.02 -W 10 10.0.0.2");
    // The largest packet for the MTU: 20 bytes of IP header and 8 bytes of ICMP header are added.
    run("ping -q -c 2 -i 0.02 -W 10 -M do -s 1372 10.0.0.2");
    let output = tender.wait_with_output().unwrap();
    let mut rest = String::new();
    console.read_to_string(&mut rest).unwrap();
    assert_eq!((output.status.code(), text(&output.stderr), rest.as_str()), (Some(0), "", "SUCCESS\n"));
}

#[test]
fn answers_a_ping_through_a_tap() {
    let app = guest("net");
    in_own_network(move || {
        make_tap();
        answers_a_ping(&app, |command| {
            command.arg("--net=tap0");
        });
    });
}

/// The parent process has opened the tap, and the tender queries the descriptor for the MTU.
#[test]
fn answers_a_ping_through_a_descriptor() {
    let app = guest("net");
    in_own_network(move || {
        make_tap();
        let tap = open_tap("tap0");
        answers_a_ping(&app, |command| {
            command.arg(format!("--net:service=@{}", tap.as_raw_fd()));
            // SAFETY: Between fork and exec, one async-signal-safe system call is made.
            unsafe {
                command.pre_exec(move || match libc::fcntl(tap.as_raw_fd(), libc::F_SETFD, 0) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                })
            };
        });
    });
}

/// A macvtap on one interface of a veth pair, attached by name and through a descriptor that a
/// shell has opened (`--net @3 3<>/dev/tapN`).
#[test]
fn answers_a_ping_through_a_macvtap() {
    let app = guest("net");
    in_own_network(move || {
        run("ip link add veth0 type veth peer name veth1");
        let add = "ip link add link veth0 name mvt0 address 02:00:00:00:00:2a type macvtap mode bridge";
        let made = Command::new("sh").args(["-c", add]).output().unwrap();
        if !made.status.success() {
            let why = text(&made.stderr);
            assert!(
                std::env::var_os("CI").is_none(),
                "this test creates a macvtap, which this kernel does not support: {why}"
            );
            eprintln!("SKIPPED: this test creates a macvtap, which this kernel does not support: {why}");
            return;
        }
        run("ip addr add 10.0.0.1/24 dev veth1");
        run("ip link set veth1 mtu 1400 up");
        run("ip link set veth0 mtu 1400 up");
        run("ip link set mvt0 mtu 1400 up");
        answers_a_ping(&app, |command| {
            command.arg("--net=mvt0");
        });
        let shown = Command::new("ip").args(["-o", "link", "show", "mvt0"]).output().unwrap();
        let (index, _) = text(&shown.stdout).split_once(':').unwrap();
        let program = tender().get_program().to_owned();
        answers_a_ping(&app, |command| {
            let options: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            *command = Command::new("sh");
            command.arg("-c").arg(format!("exec \"$0\" \"$@\" 3<>/dev/tap{index}")).arg(program).args(options);
            command.arg("--net=@3").stdin(Stdio::null());
        });
    });
}

/// By default, the tender offers a ring only if a kick is cheaper than a hypercall.
#[test]
fn a_process_gets_a_network_ring_on_request_only() {
    let app = guest("bench-net");
    in_own_network(move || {
        make_tap();
        for (choice, carries) in [("auto", false), ("on", true)] {
            let mut command = tender();
            command.args(["--mem=32", "--backend=process", "-vv", "--net=tap0", "--net-ring", choice]);
            let output = command.arg(&app).arg("30").output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
            assert_eq!(text(&output.stderr).contains("the network ring carried"), carries, "{choice}");
        }
    });
}

/// Opens a queue of an existing tap.
fn open_tap(name: &str) -> File {
    let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: `ifreq` is plain data, for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: The request takes a pointer to an `ifreq`.
    let set = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    tap
}

#[test]
fn an_unusable_tap_is_an_error() {
    let app = guest("net");
    in_own_network(move || {
        let attach = |name: &str| tender().arg(format!("--net={name}")).arg(&app).output().unwrap();
        assert_fails(&attach("tap0"), 1, "tap0 does not exist: create it: ip tuntap add tap0 mode tap");
        run("ip tuntap add tap0 mode tap");
        assert_fails(&attach("tap0"), 1, "tap0 is down: set it up: ip link set tap0 up");
        run("ip link set lo up");
        assert_fails(&attach("lo"), 1, "network interface lo is neither a tap nor a macvtap");
    });
}

#[test]
fn a_tap_of_another_user_is_refused() {
    let app = guest("net");
    in_own_network(move || {
        run("ip tuntap add tap0 mode tap");
        run("ip link set tap0 up");
        // A directory where every user may execute the program.
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let (here, there) = (folder.path().join("hvt-tender"), folder.path().join("app"));
        copy_program(Path::new(env!("CARGO_BIN_EXE_hvt-tender")), &here);
        copy_program(&app, &there);
        let mut command = Command::new(here);
        command.uid(NOBODY).gid(NOBODY).arg("--net=tap0").arg(there).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert_fails(&output, 1, "network interface tap0 ");
        // The message depends on the permissions of /dev/net/tun.
        let message = text(&output.stderr);
        assert!(message.contains("belongs to another user") || message.contains("give this user access"), "{message}");
    });
}
