//! Errors of unikernels that cannot run: each message is one line and names the cause.

use std::fs;
use std::os::fd::AsRawFd;

use hvt_abi::manifest::Kind;
use tempfile::TempDir;

use super::*;
use crate::error_chain::ErrorChain;
use crate::image::fixture::Elf;

/// Temporary folder with a unikernel that declares these devices, and a disk of 64 blocks.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new(devices: &[(&str, Kind)]) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("app"), Elf::unikernel(devices).build()).unwrap();
        fs::File::create(folder.path().join("disk")).unwrap().set_len(64 * 512).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().into()
    }

    /// Prepares the run of `line`, with `%` replaced by the folder.
    fn prepare(&self, line: &str) -> Result<Unikernel, CliError> {
        let folder = self.folder.path().to_str().unwrap();
        let words = line.split(' ').map(|word| OsString::from(word.replace('%', folder)));
        let Ok(Command::Run(mut config)) = parse(words) else { panic!("{line}") };
        // The test's thread must stay unconfined.
        config.sandbox = false;
        let descriptors = Descriptors::claim(&config)?;
        prepare(*config, descriptors, &CancelToken::new().unwrap()).map(|(unikernel, _)| unikernel)
    }

    fn error(&self, line: &str) -> String {
        let error = self.prepare(line).err().unwrap_or_else(|| panic!("{line} is no error"));
        let error = ErrorChain::of(&error).to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }
}

/// Asserts that the error of each command line contains these words.
#[track_caller]
fn check(desk: &Desk, cases: &[(&str, &str)]) {
    for (line, words) in cases {
        let error = desk.error(line);
        assert!(error.contains(words), "{line}: {error}");
    }
}

#[test]
fn files_that_are_no_unikernels() {
    let desk = Desk::new(&[]);
    fs::write(desk.path("text"), "hello").unwrap();
    fs::write(desk.path("empty"), "").unwrap();
    let large = fs::File::create(desk.path("large")).unwrap();
    large.set_len(1 << 33).unwrap();
    check(
        &desk,
        &[
            ("%/missing", "missing: No such file"),
            ("%", "not a file"),
            ("/dev/zero", "not a file"),
            ("%/text", "text: not an ELF file"),
            ("%/empty", "empty: not an ELF file"),
            ("%/large", "larger than any guest's memory"),
            ("/proc/self/exe", "/proc/self/exe: not a unikernel"),
        ],
    );
}

#[test]
fn devices_that_do_not_match_the_manifest() {
    let desk = Desk::new(&[]);
    check(
        &desk,
        &[
            ("--block %/disk %/app", "--block: the unikernel declares no block device"),
            ("--net tap0 %/app", "--net: the unikernel declares no net device"),
            ("--net:service=tap0 %/app", "'service' not declared in manifest; the unikernel declares no devices"),
            ("--net-mac:service=02:00:00:00:00:01 %/app", "--net-mac: net device 'service' not declared in manifest"),
            ("--block-readonly %/app", "--block-readonly: the unikernel declares no block device"),
            ("--block-direct %/app", "--block-direct: the unikernel declares no block device"),
        ],
    );
    let desk = Desk::new(&[("a", Kind::Block), ("b", Kind::Block), ("service", Kind::Net)]);
    check(
        &desk,
        &[
            ("%/app", "'a' declared but not attached"),
            ("%/app", "--block a=PATH"),
            ("--block %/disk %/app", "the block devices a, b: name one with --block NAME=.."),
            ("--block a=%/disk --block b=%/disk %/app", "'service' declared but not attached"),
            ("--block a=%/disk --block b=%/disk %/app", "--net service=INTERFACE"),
            ("--block a=%/disk --block a=%/disk %/app", "'a' attached twice"),
            ("--block service=%/disk %/app", "'service' is a net device"),
            ("--net a=tap0 %/app", "'a' is a block device"),
            ("--block c=%/none --net tap0 %/app", "'c' not declared in manifest; the unikernel declares a (block)"),
            (
                "--block a=%/disk --block b=%/disk --net tap0 --block-readonly=c %/app",
                "--block-readonly: block device 'c'",
            ),
            ("--block a=%/disk --block b=%/disk --net tap0 --block-sector-size 512 %/app", "--block-sector-size NAME="),
        ],
    );
}

#[test]
fn disks_that_cannot_be_opened() {
    let desk = Desk::new(&[("storage", Kind::Block)]);
    fs::write(desk.path("odd"), [0; 1000]).unwrap();
    check(
        &desk,
        &[
            ("--block %/none %/app", "block device 'storage': "),
            ("--block %/none %/app", "none: cannot be opened: No such file"),
            ("--block % %/app", "neither a file nor a block device"),
            ("--block %/odd %/app", "Backing storage size must be block aligned (512 bytes)"),
            ("--block:storage=%/odd --block-sector-size:storage=4096 %/app", "must be block aligned (4096 bytes)"),
            (
                "--block:storage=%/disk --block-sector-size:storage=521 %/app",
                "Block size must be a multiple of 2 greater than or equal 512",
            ),
        ],
    );
    check(
        &desk,
        &[
            ("--disk-cow %/none %/app", "none: cannot be opened: No such file"),
            ("--disk-cow % %/app", "neither a file nor a block device"),
            ("--disk-cow %/disk --block %/disk %/app", "'storage' attached twice"),
            ("--disk-cow %/disk --block-sector-size 100 %/app", "Block size must be a multiple of 2"),
            ("--disk-cow %/disk --block-readonly %/app", "a copy (--disk-cow) is writable"),
            ("--disk-cow %/disk --block-direct %/app", "a copy (--disk-cow) is in memory"),
            ("--block %/none --block-direct %/app", "none: cannot be opened: No such file"),
        ],
    );
    let running = desk.prepare("--block %/disk %/app").unwrap();
    check(
        &desk,
        &[
            ("--block %/disk %/app", "in use by another tender"),
            ("--block %/disk --block-readonly %/app", "in use"),
            ("--disk-cow %/disk %/app", "in use"),
        ],
    );
    drop(running);
    let copies = [(); 2].map(|()| desk.prepare("--disk-cow:storage=%/disk %/app").unwrap());
    check(&desk, &[("--block %/disk %/app", "in use by another tender")]);
    drop(copies);
    let readers = [(); 2].map(|()| desk.prepare("--block:storage=%/disk --block-readonly:storage %/app").unwrap());
    check(&desk, &[("--block %/disk %/app", "in use by another tender")]);
    drop(readers);
    let unikernel = desk.prepare("--block %/disk --block-sector-size=4096 %/app").unwrap();
    let devices = unikernel.manifest().devices();
    assert_eq!(devices.len(), 1);
}

#[test]
fn networks_that_cannot_be_opened() {
    let desk = Desk::new(&[("service", Kind::Net)]);
    let file = tempfile::tempfile().unwrap();
    check(
        &desk,
        &[
            ("--net a16letterslong00 %/app", "net device 'service': network interface a16letterslong00 cannot exist"),
            ("--net=pcap:%/none/x %/app", "net device 'service': "),
            ("--net=pcap:%/none/x %/app", "none/x: cannot be written: No such file"),
            ("--net=unix:%/none/x %/app", "net device 'service': network socket "),
            ("--net=unix:%/none/x %/app", "none/x cannot be opened: its folder: No such file"),
            ("--net=unix:%/disk %/app", "disk is not a socket: move it away"),
            ("--net=unix:%/x --virtual-time %/app", "host networks do not run in virtual time"),
            ("--net=none --net-pcap=%/none/x %/app", "none/x: cannot be written: No such file"),
            ("--net=unix:%/cable --net-pcap=%/none/x %/app", "none/x: cannot be written: No such file"),
            ("--net=none --net-pcap=other=%/x %/app", "--net-pcap: net device 'other' not declared in manifest"),
            ("--net=tap0 --virtual-time %/app", "with --virtual-time use service=none or service=pcap:FILE"),
            ("--net nosuchtap0 %/app", "ip tuntap add nosuchtap0 mode tap"),
            ("--net:service=@0 %/app", "--net @0: the descriptor cannot be used: it is a standard stream"),
            ("--net:service=@99999 %/app", "--net @99999: the descriptor cannot be used: Bad file descriptor"),
        ],
    );
    // The tender takes ownership of the descriptor, so the test gives it up.
    let number = nix::unistd::dup(&file).unwrap();
    let option = format!("--net:service=@{} %/app", number.as_raw_fd());
    std::mem::forget(number);
    check(&desk, &[(&option, "neither a tap nor a socket with message boundaries")]);
}

#[test]
fn two_devices_cannot_use_one_descriptor() {
    let desk = Desk::new(&[("a", Kind::Net), ("b", Kind::Net)]);
    let (reader, _writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let number = reader.as_raw_fd();
    std::mem::forget(reader);
    let option = format!("--net:a=@{number} --net:b=@{number} %/app");
    check(&desk, &[(&option, "two devices name it")]);
}

#[test]
fn memory_and_arguments_out_of_range() {
    let desk = Desk::new(&[]);
    let long = "x".repeat(8192);
    for (line, words) in [
        ("--mem=0 %/app", "2 to 4096 MB"),
        ("--mem=4097 %/app", "2 to 4096 MB"),
        ("--mem=18446744073709551615 %/app", "2 to 4096 MB"),
        ("--mem=2 %/app", "needs 4 MiB of memory at least"),
        (&format!("%/app {long}"), "arguments take 8192 bytes"),
    ] {
        let error = desk.prepare(line).unwrap().run().unwrap_err();
        let error = ErrorChain::of(&error).to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{line}: {error}");
    }
}

/// A message escapes control characters, so that they do not reach the terminal.
#[test]
fn a_path_cannot_break_a_line() {
    let desk = Desk::new(&[]);
    let error = desk.prepare("%/two\nlines").err().unwrap();
    let mut line = Vec::new();
    crate::message::line(&mut line, "hvt-tender", &ErrorChain::of(&error));
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
}
