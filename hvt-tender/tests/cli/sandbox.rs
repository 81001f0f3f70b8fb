//! Privileges and resources that the tender has dropped before its guest runs, as the kernel
//! reports them.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, geteuid};
use tempfile::TempDir;

use super::signals::started;
use super::{assert_fails, guest, tender, tender_with, text};

/// An unprivileged user and group.
const USER: u32 = 65534;
const GROUP: u32 = 65533;

/// A tender whose guest sleeps, and its files in `/proc`.
struct Sleeper {
    tender: Child,
}

impl Sleeper {
    fn start(options: &[&str]) -> Self {
        let mut command = tender();
        command.args(["--mem=32", "--backend=process"]).args(options).arg(guest("sleep"));
        Self::run(command)
    }

    fn run(command: Command) -> Self {
        Self { tender: started(command, "sleeping").0 }
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.tender.id().to_string()).join(name)
    }

    /// Returns the process ID of the child that runs the guest.
    fn child(&self) -> String {
        let children = self.proc("task").join(self.tender.id().to_string()).join("children");
        fs::read_to_string(children).unwrap().trim().to_owned()
    }

    /// Terminates the tender and returns its messages from before the signal.
    fn end(self) -> String {
        kill(Pid::from_raw(self.tender.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let output = self.tender.wait_with_output().unwrap();
        let said = text(&output.stderr).strip_suffix("hvt-tender: stopped by SIGTERM\n");
        said.unwrap_or_else(|| panic!("{}", text(&output.stderr))).to_owned()
    }
}

/// Returns the words of a line in a `status` file.
fn status(file: &str, field: &str) -> Vec<String> {
    let line = file.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.expect(field).split_whitespace().map(str::to_owned).collect()
}

/// Asserts that a process has no capabilities, cannot gain privileges, and has a system call
/// filter.
#[track_caller]
fn assert_confined(status_file: &str) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(status_file, set), ["0000000000000000"], "{set}");
    }
    if geteuid().is_root() {
        // Dropping capabilities from the bounding set requires a capability.
        assert_eq!(status(status_file, "CapBnd"), ["0000000000000000"]);
    }
    assert_eq!(status(status_file, "NoNewPrivs"), ["1"]);
    assert_eq!(status(status_file, "Seccomp"), ["2"]);
}

#[test]
fn tender_and_guest_have_no_rights_left() {
    let sleeper = Sleeper::start(&[]);
    let child = fs::read_to_string(format!("/proc/{}/status", sleeper.child())).unwrap();
    assert_confined(&fs::read_to_string(sleeper.proc("status")).unwrap());
    assert_confined(&child);
    assert_eq!(sleeper.end(), "");
}

/// The parent may be unprivileged. In that case only the filter differs.
#[test]
fn no_sandbox_warns_and_keeps_privileges() {
    let sleeper = Sleeper::start(&["--no-sandbox"]);
    let found = fs::read_to_string(sleeper.proc("status")).unwrap();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    for field in ["Seccomp", "NoNewPrivs", "CapEff", "CapBnd"] {
        assert_eq!(status(&found, field), status(&own, field), "{field}");
    }
    let said = sleeper.end();
    let words = "hvt-tender: warning: --no-sandbox: the tender keeps its capabilities, the file system, ";
    assert!(said.starts_with(words) && said.matches('\n').count() == 1, "{said}");
}

/// The tender closes descriptors that its parent left open.
#[test]
fn unnamed_descriptors_are_closed() {
    const LEFT: [i32; 3] = [9, 40, 41];
    let file = tempfile::tempfile().unwrap();
    let number = file.as_raw_fd();
    for (options, closed) in [(&[][..], true), (&["--no-sandbox"], false)] {
        let mut command = tender();
        command.args(["--mem=32", "--backend=process"]).args(options).arg(guest("sleep"));
        let leave = move || {
            // SAFETY: The call takes no pointers.
            let failed = LEFT.iter().any(|left| unsafe { libc::dup2(number, *left) } < 0);
            if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        };
        // SAFETY: `dup2` is async-signal-safe.
        unsafe { command.pre_exec(leave) };
        let sleeper = Sleeper::run(command);
        for left in LEFT {
            // A descriptor of the tender may have the same number, but it refers to another file.
            let target = fs::read_link(sleeper.proc("fd").join(left.to_string())).ok();
            let open = target.is_some_and(|target| target.to_string_lossy().contains("(deleted)"));
            assert_eq!(open, !closed, "{left}, {options:?}");
        }
        sleeper.end();
    }
}

/// A descriptor can be named by its path, as shells do. It is closed after the path has been
/// opened.
#[test]
fn descriptors_are_named_by_paths_too() {
    let unikernel = fs::File::open(guest("sleep")).unwrap();
    let trace = tempfile::NamedTempFile::new().unwrap();
    let passed = [(unikernel.as_raw_fd(), 40), (trace.as_file().as_raw_fd(), 41)];
    let mut command = tender();
    command.args(["--mem=32", "--backend=process", "--trace=/proc/self/fd/41", "/dev/fd/40"]);
    let pass = move || {
        // SAFETY: The call takes no pointers.
        let failed = passed.iter().any(|(from, to)| unsafe { libc::dup2(*from, *to) } < 0);
        if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: `dup2` is async-signal-safe.
    unsafe { command.pre_exec(pass) };
    let sleeper = Sleeper::run(command);
    for (_, number) in passed {
        assert!(fs::read_link(sleeper.proc("fd").join(number.to_string())).is_err(), "{number} is open");
    }
    assert_eq!(sleeper.end(), "");
    assert!(fs::read_to_string(trace.path()).unwrap().starts_with("{\"number\":"));
    let output = tender().arg("/dev/fd/40").output().unwrap();
    assert_fails(&output, 1, "cannot read /dev/fd/40: No such file");
}

/// Returns `true` if the test runs as root, which a continuous integration must.
fn is_root() -> bool {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test becomes another user: run it as root");
        eprintln!("SKIPPED: this test becomes another user, which requires root");
    }
    geteuid().is_root()
}

#[test]
fn becomes_another_user_in_another_root() {
    if !is_root() {
        return;
    }
    let root = TempDir::new().unwrap();
    let (user, chroot) = (format!("--user={USER}:{GROUP}"), format!("--chroot={}", root.path().display()));
    for sandbox in [&[][..], &["--no-sandbox"]] {
        let sleeper = Sleeper::start(&[&[user.as_str(), &chroot], sandbox].concat());
        for process in [sleeper.tender.id().to_string(), sleeper.child()] {
            let found = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
            assert_eq!(status(&found, "Uid"), [USER.to_string().as_str(); 4]);
            assert_eq!(status(&found, "Gid"), [GROUP.to_string().as_str(); 4]);
            assert!(status(&found, "Groups").is_empty());
            assert_eq!(status(&found, "CapEff"), ["0000000000000000"]);
            assert_eq!(fs::read_link(format!("/proc/{process}/root")).unwrap(), root.path());
            assert_eq!(fs::read_link(format!("/proc/{process}/cwd")).unwrap(), root.path());
        }
        sleeper.end();
    }
}

/// The directory is opened in advance, and the file belongs to the new user.
#[test]
fn leaves_a_core_file_outside_of_its_root() {
    if !is_root() {
        return;
    }
    let (root, cores) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    nix::unistd::chown(cores.path(), Some(Uid::from_raw(USER)), Some(Gid::from_raw(GROUP))).unwrap();
    let mut command = tender_with_options(&[
        &format!("--user={USER}:{GROUP}"),
        &format!("--chroot={}", root.path().display()),
        &format!("--dumpcore={}", cores.path().display()),
    ]);
    let output = command.arg(guest("abort")).output().unwrap();
    assert_eq!(output.status.code(), Some(255), "{}", text(&output.stderr));
    assert_eq!(fs::read_dir(&cores).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
}

fn tender_with_options(options: &[&str]) -> Command {
    let mut command = tender();
    command.args(["--mem=32", "--backend=process"]).args(options);
    command
}

#[test]
fn an_impossible_user_or_root_is_an_error() {
    for wrong in ["root", "1", "0:4294967295", "nobody:nogroup"] {
        let output = tender_with_options(&["--user", wrong]).arg("app").output().unwrap();
        assert_fails(&output, 2, &format!("--user: invalid value '{wrong}': expected UID:GID, two numbers"));
    }
    let output = tender_with_options(&["--chroot=/nowhere"]).arg(guest("hello")).output().unwrap();
    assert_fails(&output, 1, "--chroot /nowhere: cannot change the root directory");
    if !is_root() {
        return;
    }
    // A directory where every user may execute and read the program.
    let folder = TempDir::new().unwrap();
    fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (here, app) = (folder.path().join("hvt-tender"), folder.path().join("app"));
    super::copy_program(Path::new(env!("CARGO_BIN_EXE_hvt-tender")), &here);
    super::copy_program(&guest("hello"), &app);
    for (option, words) in [
        (
            "--user=0:0",
            "--user 0:0: the tender cannot drop its other groups (requires root, or CAP_SETUID and CAP_SETGID)",
        ),
        ("--chroot=/", "--chroot /: cannot change the root directory (requires root, or CAP_SYS_CHROOT)"),
    ] {
        let mut command = Command::new(&here);
        command.uid(USER).gid(GROUP).args(["--backend=process", option]).arg(&app);
        assert_fails(&command.output().unwrap(), 1, words);
    }
}

/// The report of a stopped guest contains the names of its functions, although the tender can no
/// longer open files.
#[test]
fn reports_names_without_the_right_to_open_files() {
    let output = tender_with("port").args(["out32", "0x4ff"]).output().unwrap();
    assert!(text(&output.stderr).lines().any(|line| line.starts_with("hvt-tender:   in ")), "{}", text(&output.stderr));
}
