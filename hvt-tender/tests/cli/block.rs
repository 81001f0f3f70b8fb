//! Block devices of a guest with continuous transfers: around the page cache, during a storm of
//! signals, at the end of the guest, and on a failing disk. The tests run on each backend of this
//! machine, or on the backends in `HVT_BACKENDS`.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;
use test_suite::Contents;

use super::{assert_fails, guest, tender, text};

/// Block size in bytes.
const BLOCK: usize = 512;
/// Size of one transfer of the guest in bytes.
const PIECE: usize = 4 * BLOCK;
/// Capacity of the device in bytes.
const CAPACITY: usize = 64 * BLOCK;

/// Returns the backends to test.
fn backends() -> Vec<String> {
    let names = std::env::var("HVT_BACKENDS").unwrap_or_else(|_| "process".into());
    names.split(',').map(str::to_owned).collect()
}

/// Returns the command that runs the guest `churn` on this device.
fn churn(backend: &str, disk: &Path, options: &[&str], words: &[&str]) -> Command {
    let mut command = tender();
    command.args(["--mem=32", "--backend", backend]).args(options).arg("--block").arg(disk).arg(guest("churn"));
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn image(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("disk.img");
    File::create(&path).unwrap().set_len(CAPACITY as u64).unwrap();
    path
}

fn pid(tender: &Child) -> Pid {
    Pid::from_raw(tender.id().try_into().unwrap())
}

/// Starts the command and waits until the guest prints that it has begun.
fn begun(mut command: Command) -> (Child, BufReader<ChildStdout>) {
    let mut tender = command.spawn().unwrap();
    let mut console = BufReader::new(tender.stdout.take().unwrap());
    let mut line = String::new();
    while line != "churning\n" {
        line.clear();
        assert_ne!(console.read_line(&mut line).unwrap(), 0, "the guest ended early");
    }
    (tender, console)
}

/// Signals of the storm: signals that are ignored by default, signals that the tests ignore, and
/// the signal that interrupts a vCPU of KVM, which has a handler on KVM and is ignored on other
/// backends.
fn storm_signals() -> Vec<libc::c_int> {
    let harmless = [Signal::SIGWINCH, Signal::SIGURG, Signal::SIGCHLD, Signal::SIGCONT].map(|signal| signal as i32);
    [&harmless[..], &IGNORED.map(|signal| signal as i32), &[libc::SIGRTMIN() + 4]].concat()
}

const IGNORED: [Signal; 4] = [Signal::SIGALRM, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGPIPE];

/// Ignores the signals in the tender that would terminate it.
fn ignoring(mut command: Command) -> Command {
    let ignore = || {
        for one in IGNORED {
            // SAFETY: SIG_IGN installs no handler.
            unsafe { signal(one, SigHandler::SigIgn) }?;
        }
        // SAFETY: `signal` is async-signal-safe, and `nix` has no name for this signal.
        unsafe { libc::signal(libc::SIGRTMIN() + 4, libc::SIG_IGN) };
        Ok(())
    };
    // SAFETY: `signal` is async-signal-safe.
    unsafe { command.pre_exec(ignore) };
    command
}

/// Sends signals to each thread of the tender, and stops and continues the tender and the guest's
/// process, until the tender has ended. Returns the number of signals sent.
fn storm(tender: &Child) -> u32 {
    let (process, mut sent) = (pid(tender), 0);
    let ended = || {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(process), flags).unwrap() != nix::sys::wait::WaitStatus::StillAlive
    };
    let task = format!("/proc/{process}/task");
    while !ended() {
        let threads: Vec<i32> = fs::read_dir(&task)
            .map(|threads| threads.filter_map(|thread| thread.ok()?.file_name().to_str()?.parse().ok()).collect())
            .unwrap_or_default();
        let children = fs::read_to_string(format!("{task}/{process}/children")).unwrap_or_default();
        for signal in storm_signals() {
            for thread in &threads {
                // SAFETY: The call takes no pointers. An ended tender is not reaped before this
                // function returns.
                sent += u32::from(unsafe { libc::syscall(libc::SYS_tgkill, process.as_raw(), *thread, signal) } == 0);
            }
            thread::sleep(Duration::from_micros(20));
        }
        let children = children.split_whitespace().filter_map(|child| child.parse().ok()).map(Pid::from_raw);
        for process in [process].into_iter().chain(children) {
            // The guest's process may have ended.
            sent += u32::from(kill(process, Signal::SIGSTOP).is_ok());
            thread::sleep(Duration::from_micros(50));
            let _ = kill(process, Signal::SIGCONT);
        }
    }
    sent
}

/// Returns the number of bytes that a process has written to files and streams, as returned by its
/// system calls.
fn bytes_written(process: Pid) -> usize {
    let io = fs::read_to_string(format!("/proc/{process}/io")).expect("the kernel has I/O accounting");
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

/// Each block holds the data of its last write, reads return the written data, and the number of
/// written bytes equals the number of bytes that the guest has written.
#[test]
fn a_storm_of_signals_changes_nothing() {
    const ROUNDS: usize = 150;
    for backend in backends() {
        for direct in [&[][..], &["--block-direct"]] {
            let folder = TempDir::new().unwrap();
            let path = image(&folder);
            let Some(disk) = (if direct.is_empty() { Some(Disk::File(path.clone())) } else { Disk::device(&path) })
            else {
                return;
            };
            let words = ["write", &PIECE.to_string(), &ROUNDS.to_string()];
            let (tender, mut console) = begun(ignoring(churn(&backend, disk.path(), direct, &words)));
            let sent = storm(&tender);
            let written = bytes_written(pid(&tender));
            let mut rest = String::new();
            console.read_to_string(&mut rest).unwrap();
            let output = tender.wait_with_output().unwrap();
            let said = text(&output.stderr);
            assert_eq!((output.status.code(), rest.as_str(), said), (Some(0), "SUCCESS\n", ""), "{backend}");
            assert!(sent >= 100, "{backend}: {sent} signals are too few");
            let printed = printed_before("churning\n", &backend) + rest.len();
            assert_eq!(written, ROUNDS * CAPACITY + printed, "{backend} {direct:?}: after {sent} signals");
            assert!(Contents::Pattern(ROUNDS as u64).matches(0, &fs::read(&path).unwrap()), "{backend}");
        }
    }
}

/// Returns the number of output bytes before `words`, the first output of the guest itself. The
/// greeting of the bindings precedes it.
fn printed_before(words: &str, backend: &str) -> usize {
    let folder = TempDir::new().unwrap();
    let output = churn(backend, &image(&folder), &[], &["write", &PIECE.to_string(), "1"]).output().unwrap();
    let printed = text(&output.stdout);
    printed.find(words).expect(printed) + words.len()
}

/// Each block, and each group of blocks written at once, is either old or new when the tender is
/// asked to terminate. All blocks after the last write are old.
#[test]
fn a_block_is_old_or_new_after_sigterm() {
    for backend in backends() {
        for try_ in 0..20_u64 {
            let folder = TempDir::new().unwrap();
            let path = image(&folder);
            let (tender, _console) = begun(churn(&backend, &path, &[], &["write", &PIECE.to_string()]));
            thread::sleep(Duration::from_micros(700 * try_));
            kill(pid(&tender), Signal::SIGTERM).unwrap();
            let output = tender.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(1));
            assert_eq!(text(&output.stderr), "hvt-tender: stopped by SIGTERM\n");
            let contents = fs::read(&path).unwrap();
            let rounds: Vec<_> =
                contents.chunks(PIECE).enumerate().map(|(at, piece)| round(at * PIECE, piece)).collect();
            let newest = rounds[0];
            assert!(newest >= 1 && rounds.is_sorted_by(|one, next| one >= next), "{backend}: {rounds:?}");
            assert!(rounds.iter().all(|round| newest - round <= 1), "{backend}: {rounds:?}");
        }
    }
}

/// Returns the round in which the guest has written this piece, or 0 if it was never written.
fn round(offset: usize, piece: &[u8]) -> u64 {
    if Contents::Zeros.matches(0, piece) {
        return 0;
    }
    // The first word identifies the round: the words of consecutive seeds differ by a constant.
    let first = |seed| {
        let mut word = [0; 8];
        Contents::Pattern(seed).fill(offset as u64, &mut word);
        word
    };
    let found = (1..1 << 16).find(|seed| first(*seed) == piece[..8]).expect("the first word of a round");
    assert!(Contents::Pattern(found).matches(offset as u64, piece), "the piece at {offset} is torn");
    found
}

/// Location of the guest's disk.
enum Disk {
    File(PathBuf),
    /// A loop device on this file.
    Device(PathBuf),
}

impl Disk {
    /// Creates a loop device on this file. It requires root, which a continuous integration must
    /// have.
    fn device(file: &Path) -> Option<Self> {
        if !geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "this test creates a loop device: run it as root");
            eprintln!("SKIPPED: this test creates a loop device, which requires root");
            return None;
        }
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
        assert!(output.status.success(), "losetup: {}", text(&output.stderr));
        // The flag may be set by an earlier user of the device.
        let set = Command::new("blockdev").args(["--setrw", text(&output.stdout).trim()]).status().unwrap();
        assert!(set.success(), "blockdev: {set}");
        Some(Self::Device(text(&output.stdout).trim().into()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Device(path) => path,
        }
    }

    /// Returns the number of cache flush requests (Linux, Documentation/block/stat.rst).
    fn flushes(&self) -> u64 {
        let name = self.path().file_name().unwrap().to_str().unwrap();
        let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        stat.split_whitespace().nth(15).expect("Linux 5.5 or later").parse().unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Self::Device(path) = self {
            // The loop device is removed after its last user has closed it.
            let _ = Command::new("losetup").arg("--detach").arg(path).status();
        }
    }
}

/// Written data is flushed to the disk, including the disk's own cache, when the guest ends and
/// when it is terminated.
#[test]
fn the_disk_is_flushed_at_the_end() {
    for backend in backends() {
        for direct in [&[][..], &["--block-direct"]] {
            for rounds in [Some("2"), None] {
                let folder = TempDir::new().unwrap();
                let path = image(&folder);
                let Some(disk) = Disk::device(&path) else { return };
                let piece = PIECE.to_string();
                let words: Vec<_> = ["write", &piece].into_iter().chain(rounds).collect();
                let before = disk.flushes();
                let (tender, mut console) = begun(churn(&backend, disk.path(), direct, &words));
                if rounds.is_none() {
                    kill(pid(&tender), Signal::SIGTERM).unwrap();
                }
                console.read_to_string(&mut String::new()).unwrap();
                let output = tender.wait_with_output().unwrap();
                assert_eq!(output.status.code(), Some(i32::from(rounds.is_none())), "{}", text(&output.stderr));
                assert!(disk.flushes() > before, "{backend} {direct:?} {rounds:?}: nothing was flushed");
                let first = round(0, &fs::read(&path).unwrap()[..PIECE]);
                assert!(first >= 1, "{backend} {direct:?} {rounds:?}: nothing was written");
            }
        }
    }
}

/// A sparse image of 1 MiB on a separately mounted file system that has room for a part of it.
struct Full {
    folder: TempDir,
}

impl Full {
    const CAPACITY: u64 = 1 << 20;

    fn new() -> Option<Self> {
        if !geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "this test mounts a file system: run it as root");
            eprintln!("SKIPPED: this test mounts a file system, which requires root");
            return None;
        }
        let folder = TempDir::new().unwrap();
        // The mount is visible only to this thread and the processes that it starts.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some("size=256k")).unwrap();
        let full = Self { folder };
        File::create(full.path()).unwrap().set_len(Self::CAPACITY).unwrap();
        Some(full)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        // A loop device may still hold its file open.
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

/// Parses the line `N written, N refused`.
fn written_and_refused(console: &str) -> (u64, u64) {
    let line = console.lines().find(|line| line.ends_with(" refused")).expect(console);
    let numbers = line.strip_suffix(" refused").unwrap().split_once(" written, ").unwrap();
    (numbers.0.parse().unwrap(), numbers.1.parse().unwrap())
}

/// The file system is full (ENOSPC): the guest gets an error, keeps its data, and continues to its
/// end.
#[test]
fn a_full_disk_is_the_guests_to_know() {
    const PIECES: u64 = Full::CAPACITY / 4096;
    for backend in backends() {
        let Some(full) = Full::new() else { return };
        let output = churn(&backend, &full.path(), &[], &["fill", "4096"]).output().unwrap();
        let (printed, said) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{said}");
        let (written, refused) = written_and_refused(printed);
        assert!((1..=64).contains(&written) && written + refused == PIECES, "{printed}");
        assert!(printed.ends_with("SUCCESS\n"), "{printed}");
        // The tender prints one line, regardless of the number of failures.
        let words = "cannot write at byte ";
        assert!(said.contains(words) && said.contains("No space left") && said.matches('\n').count() == 1, "{said}");
    }
}

/// The disk fails (EIO). With direct I/O the guest gets the errors. Through the page cache, the
/// flush at the end fails and the tender exits with an error.
#[test]
fn a_disk_that_fails_is_the_guests_to_know() {
    for backend in backends() {
        for direct in [&[][..], &["--block-direct"]] {
            let Some(full) = Full::new() else { return };
            let Some(disk) = Disk::device(&full.path()) else { return };
            let output = churn(&backend, disk.path(), direct, &["fill", "4096"]).output().unwrap();
            let (printed, said) = (text(&output.stdout), text(&output.stderr));
            let (written, refused) = written_and_refused(printed);
            assert!(printed.ends_with("SUCCESS\n"), "{printed}");
            if direct.is_empty() {
                assert_eq!((output.status.code(), refused), (Some(1), 0), "{said}");
                assert!(said.contains("data written by the unikernel may be lost"), "{said}");
            } else {
                assert_eq!(output.status.code(), Some(0), "{said}");
                assert!(written >= 1 && refused >= 1, "{printed}");
                assert!(said.contains("cannot write at byte ") && said.matches('\n').count() == 1, "{said}");
            }
        }
    }
}

/// The file is truncated while a guest reads it, and is then extended again.
#[test]
fn a_file_that_shrinks_is_the_guests_to_know() {
    for backend in backends() {
        let folder = TempDir::new().unwrap();
        let path = image(&folder);
        let mut command = churn(&backend, &path, &["--block-readonly"], &["look", &PIECE.to_string()]);
        let mut tender = command.spawn().unwrap();
        let mut console = BufReader::new(tender.stdout.take().unwrap());
        let mut refused = || {
            let mut line = String::new();
            while !line.ends_with(" refused\n") {
                line.clear();
                assert_ne!(console.read_line(&mut line).unwrap(), 0, "the guest ended early");
            }
            line.split(' ').next().unwrap().parse::<usize>().unwrap()
        };
        let file = File::options().write(true).open(&path).unwrap();
        let pieces = CAPACITY / PIECE;
        assert_eq!(refused(), 0);
        // The new end is in the middle of a block.
        file.set_len(CAPACITY as u64 / 2 + 100).unwrap();
        while refused() != pieces / 2 {}
        file.set_len(CAPACITY as u64).unwrap();
        while refused() != 0 {}
        kill(pid(&tender), Signal::SIGTERM).unwrap();
        let output = tender.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("cannot read at byte "), "{}", text(&output.stderr));
    }
}

#[test]
fn a_disk_that_cannot_be_reached_directly_is_refused_in_one_line() {
    let Some(full) = Full::new() else { return };
    mount(Some("ramfs"), full.folder.path(), Some("ramfs"), MsFlags::empty(), None::<&str>).unwrap();
    File::create(full.path()).unwrap().set_len(1 << 20).unwrap();
    let output = churn("process", &full.path(), &["--block-direct"], &["fill", "4096"]).output().unwrap();
    assert_fails(&output, 1, "is on a file system without direct I/O (O_DIRECT): remove --block-direct");
    umount2(full.folder.path(), MntFlags::MNT_DETACH).unwrap();
}
