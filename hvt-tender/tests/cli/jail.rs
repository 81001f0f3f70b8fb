//! Minimal environments, as programs that run unikernels for other users create them: a root
//! directory with a few devices and without `/proc`, and an unprivileged user.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::ffi::{CStr, CString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid, chdir, chroot, geteuid, pivot_root, setgid, setgroups, setuid};
use tempfile::TempDir;

use super::net::{in_own_network, run};
use super::signals::started;
use super::{as_solo5_hvt, backend, copy_program, guest, program, text};

/// An unprivileged user.
const NOBODY: u32 = 65534;

/// A root directory that contains the tender, the given unikernels, a disk, `/dev/null` and
/// `/dev/kvm`.
struct Jail {
    root: TempDir,
}

impl Jail {
    /// Creates the directory, which requires root. Without root the test is skipped with a message;
    /// a continuous integration without root fails.
    fn new(guests: &[&str]) -> Option<Self> {
        if !geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "this test changes its root directory: run it as root");
            eprintln!("SKIPPED: this test changes its root directory, which requires root");
            return None;
        }
        let jail = Self { root: TempDir::new().unwrap() };
        fs::set_permissions(&jail.root, fs::Permissions::from_mode(0o755)).unwrap();
        let tender = program();
        jail.copy(&tender, Path::new("/tender"));
        for library in libraries(&tender) {
            jail.copy(&library, &library);
        }
        for name in guests {
            jail.copy(&guest(name), &Path::new("/").join(name));
        }
        fs::File::create(jail.inside(Path::new("/disk.img"))).unwrap().set_len(1 << 20).unwrap();
        fs::set_permissions(jail.inside(Path::new("/disk.img")), fs::Permissions::from_mode(0o666)).unwrap();
        jail.device("/dev/null", 1, 3);
        jail.device("/dev/kvm", 10, 232);
        Some(jail)
    }

    /// Creates a character device that every user may access.
    fn device(&self, path: &str, major: u64, minor: u64) {
        let path = self.inside(Path::new(path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    }

    fn root(&self) -> CString {
        CString::new(self.root.path().as_os_str().as_bytes()).unwrap()
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.root.path().join(path.strip_prefix("/").unwrap())
    }

    fn copy(&self, from: &Path, to: &Path) {
        let to = self.inside(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        copy_program(from, &to);
    }

    /// Runs the tender in the root directory as this user.
    fn run(&self, user: u32, words: &[&str]) -> Output {
        let root = self.root();
        let mut command = Command::new("/tender");
        command.arg(format!("--backend={}", backend())).arg("--mem=32").args(words).env_clear();
        let enter = move || {
            chroot(root.as_c_str())?;
            chdir(c"/")?;
            setgroups(&[])?;
            setgid(Gid::from_raw(user))?;
            Ok(setuid(Uid::from_raw(user))?)
        };
        // SAFETY: The closure makes only system calls, which are async-signal-safe.
        unsafe { command.pre_exec(enter) };
        as_solo5_hvt(command).output().unwrap()
    }
}

/// Makes this directory the only mount of a new mount namespace, as container runtimes do.
fn pivot(root: &CStr) -> nix::Result<()> {
    const NONE: Option<&CStr> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, c"/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    mount(Some(root), root, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    chdir(root)?;
    pivot_root(c".", c".")?;
    umount2(c".", MntFlags::MNT_DETACH)?;
    chdir(c"/")
}

/// Returns the shared libraries and the loader that a program needs. A static program has none.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let words = text(&output.stdout).split_whitespace();
    words.filter(|word| word.starts_with('/') && !word.ends_with(':')).map(PathBuf::from).collect()
}

#[test]
fn needs_no_proc_and_no_rights() {
    let Some(jail) = Jail::new(&["hello", "bench-block"]) else { return };
    assert!(!jail.inside(Path::new("/proc")).exists());
    for user in [0, NOBODY] {
        let become_nobody = format!("--user={NOBODY}:{NOBODY}");
        for words in [
            &["/hello"][..],
            &["--block:storage=/disk.img", "/bench-block", "3"],
            // A user needs no privileges to become the same user.
            &[&become_nobody, "/hello"],
        ] {
            let output = jail.run(user, words);
            assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{words:?} as {user}");
            assert!(text(&output.stdout).ends_with("SUCCESS\n"), "{words:?} as {user}");
        }
    }
}

/// A program that its user can execute but not read cannot be traced, and its files in `/proc`
/// belong to root.
#[test]
fn may_be_a_file_that_its_user_cannot_read() {
    let Some(jail) = Jail::new(&["hello"]) else { return };
    fs::set_permissions(jail.inside(Path::new("/tender")), fs::Permissions::from_mode(0o711)).unwrap();
    let output = jail.run(NOBODY, &["/hello"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

/// The environment is a new mount namespace with four devices, a tap and a disk, without
/// privileges.
#[test]
fn runs_in_a_pivoted_root_with_four_devices() {
    let Some(jail) = Jail::new(&["net"]) else { return };
    jail.device("/dev/net/tun", 10, 200);
    jail.device("/dev/urandom", 1, 9);
    in_own_network(move || {
        run(&format!("ip tuntap add tap0 mode tap user {NOBODY}"));
        run("ip addr add 10.0.0.1/24 dev tap0");
        run("ip link set tap0 up");
        let mut command = Command::new("/tender");
        command.arg(format!("--backend={}", backend())).args(["--mem=32", "--net:service=tap0"]);
        command.args(["/net", "ip=10.0.0.2", "echos=1"]);
        let root = jail.root();
        let enter = move || {
            pivot(&root)?;
            setgroups(&[])?;
            setgid(Gid::from_raw(NOBODY))?;
            Ok(setuid(Uid::from_raw(NOBODY))?)
        };
        // SAFETY: The closure makes only system calls, which are async-signal-safe.
        unsafe { command.env_clear().pre_exec(enter) };
        let (tender, mut console) = started(as_solo5_hvt(command), "MTU");
        run("ping -q -c 1 -W 10 10.0.0.2");
        let output = tender.wait_with_output().unwrap();
        let mut rest = String::new();
        console.read_to_string(&mut rest).unwrap();
        assert_eq!((output.status.code(), text(&output.stderr), rest.as_str()), (Some(0), "", "SUCCESS\n"));
    });
}
