//! What runs unikernels for others puts the tender where there is next to nothing: a root directory with a few devices
//! and no `/proc`, a user without rights.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid, chdir, chroot, geteuid, setgid, setgroups, setuid};
use tempfile::TempDir;

use super::{as_solo5_hvt, copy_program, guest, text};

/// A user without rights.
const NOBODY: u32 = 65534;

/// A root directory that holds the tender, these unikernels, a disk, and `/dev/null`.
struct Jail {
    root: TempDir,
}

impl Jail {
    /// Making one takes root. Who is not is told, and a continuous integration that is not fails.
    fn new(guests: &[&str]) -> Option<Self> {
        if !geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "this test changes its root directory: run it as root");
            eprintln!("SKIPPED: this test changes its root directory, which takes root");
            return None;
        }
        let jail = Self { root: TempDir::new().unwrap() };
        fs::set_permissions(&jail.root, fs::Permissions::from_mode(0o755)).unwrap();
        let tender = Path::new(env!("CARGO_BIN_EXE_hvt-tender"));
        jail.copy(tender, Path::new("/tender"));
        for library in libraries(tender) {
            jail.copy(&library, &library);
        }
        for name in guests {
            jail.copy(&guest(name), &Path::new("/").join(name));
        }
        fs::File::create(jail.inside(Path::new("/disk.img"))).unwrap().set_len(1 << 20).unwrap();
        fs::set_permissions(jail.inside(Path::new("/disk.img")), fs::Permissions::from_mode(0o666)).unwrap();
        fs::create_dir(jail.inside(Path::new("/dev"))).unwrap();
        let null = jail.inside(Path::new("/dev/null"));
        mknod(&null, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
        fs::set_permissions(null, fs::Permissions::from_mode(0o666)).unwrap();
        Some(jail)
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.root.path().join(path.strip_prefix("/").unwrap())
    }

    fn copy(&self, from: &Path, to: &Path) {
        let to = self.inside(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        copy_program(from, &to);
    }

    /// Runs the tender inside as this user.
    fn run(&self, user: u32, words: &[&str]) -> Output {
        let root = CString::new(self.root.path().as_os_str().as_bytes()).unwrap();
        let mut command = Command::new("/tender");
        command.args(["--backend=process", "--mem=32"]).args(words).env_clear();
        let enter = move || {
            chroot(root.as_c_str())?;
            chdir(c"/")?;
            setgroups(&[])?;
            setgid(Gid::from_raw(user))?;
            Ok(setuid(Uid::from_raw(user))?)
        };
        // SAFETY: system calls alone, which are async-signal-safe.
        unsafe { command.pre_exec(enter) };
        as_solo5_hvt(command).output().unwrap()
    }
}

/// The shared libraries and the loader that a program needs; none where it is static.
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
        for words in [&["/hello"][..], &["--block:storage=/disk.img", "/bench-block", "3"]] {
            let output = jail.run(user, words);
            assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{words:?} as {user}");
            assert!(text(&output.stdout).ends_with("SUCCESS\n"), "{words:?} as {user}");
        }
    }
}

/// Who may run a program but not read it cannot be traced, and what the kernel shows of it belongs to root.
#[test]
fn may_be_a_file_that_its_user_cannot_read() {
    let Some(jail) = Jail::new(&["hello"]) else { return };
    fs::set_permissions(jail.inside(Path::new("/tender")), fs::Permissions::from_mode(0o711)).unwrap();
    let output = jail.run(NOBODY, &["/hello"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}
