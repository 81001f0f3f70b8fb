//! The personality `solo5-hvt`, as used by albatross, container runtimes and scripts.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

use super::{as_solo5_hvt, assert_program_fails, guest, tender, tender_with, text};

fn run(words: &[impl AsRef<OsStr>]) -> Output {
    let mut command = as_solo5_hvt(tender());
    command.arg("--backend=process").args(words).output().unwrap()
}

/// Asserts that the tender failed with status 1 and printed one line that contains `message`.
#[track_caller]
fn assert_refuses(words: &[impl AsRef<OsStr>], message: &str) {
    assert_program_fails("solo5-hvt", &run(words), 1, message);
}

#[test]
fn help_and_version_go_to_the_standard_error() {
    for (option, status, words) in
        [("--help", 1, "Usage: solo5-hvt [OPTIONS] <KERNEL>"), ("--version", 0, "\nABI version 2\n")]
    {
        let output = as_solo5_hvt(tender()).arg(option).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(status), ""));
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
}

#[test]
fn a_wrong_command_line_ends_with_1() {
    assert_refuses(&[""; 0], "no unikernel given: KERNEL is missing; see solo5-hvt --help");
    assert_refuses(&["--frob", "app"], "unknown option '--frob'");
    assert_refuses(&["--mem=much", "app"], "--mem: invalid value 'much': expected a number of MB");
    assert_refuses(&["--net:a_b=tap0", "app"], "--net:a_b: invalid device name 'a_b'");
}

#[test]
fn the_status_is_the_guests() {
    for (argument, status) in [("0", 0), ("1", 1), ("7", 7), ("255", 255)] {
        let output = as_solo5_hvt(tender_with("exit")).arg(argument).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(status), ""));
    }
    let output = as_solo5_hvt(tender_with("abort")).output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert!(text(&output.stdout).contains("ABORT"));
}

/// Arguments after the unikernel belong to the unikernel, with and without a preceding `--`, in any
/// form.
#[test]
fn arguments_are_the_guests() {
    let app = guest("args");
    let app = app.to_str().unwrap();
    let console = |words: &[&str]| {
        let output = run(words);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{words:?}");
        text(&output.stdout).to_owned()
    };
    let arguments = ["--mem=1", "", "--help", "--", "-x", "a b", ""];
    let plain = console(&[&["--mem=32", app], &arguments[..]].concat());
    assert_eq!(console(&[&["--mem=32", "--", app], &arguments[..]].concat()), plain);
    assert!(plain.contains("--help") && plain.contains("--mem=1"), "{plain}");
}

/// Messages contain the words that scripts and Solo5's own tests search for.
#[test]
fn messages_keep_their_key_words() {
    let folder = TempDir::new().unwrap();
    let disk = |name: &str, size: u64| {
        let path = folder.path().join(name);
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let app = |name: &str| guest(name).to_str().unwrap().to_owned();
    let option = |option: &str, path: &str| format!("--block:{option}={path}");
    let (good, odd) = (disk("good", 1 << 20), disk("odd", 1000));
    let block = app("block");
    assert_refuses(&[option("storage", &odd), block.clone()], "Backing storage size must be block aligned");
    for size in ["0", "256", "513", "1000"] {
        let words = [option("storage", &good), format!("--block-sector-size:storage={size}"), block.clone()];
        assert_refuses(&words, "Block size must be a multiple of 2 greater than or equal 512");
    }
    assert_refuses(&[option("other", &good), block.clone()], "not declared in manifest");
    assert_refuses(&["--net:other=tap0".into(), app("hello")], "not declared in manifest");
    assert_refuses(&["--net:storage=tap0".into(), block.clone()], "not declared in manifest");
    let words = ["--net-mac:storage=02:00:00:00:00:01".into(), option("storage", &good), block.clone()];
    assert_refuses(&words, "not declared in manifest");
    assert_refuses(&[block], "declared but not attached");
    let broken = folder.path().join("broken.hvt");
    fs::write(&broken, with_long_note(&app("hello"))).unwrap();
    assert_refuses(&[&broken], "note does not fall within valid size");
}

/// Returns a unikernel whose ABI note has a length of one gigabyte.
fn with_long_note(unikernel: &str) -> Vec<u8> {
    let mut file = fs::read(unikernel).unwrap();
    let note = file.windows(8).position(|bytes| bytes == b"ABI1Solo").expect("an ABI note");
    // The length of the descriptor precedes the type.
    file[note - 4..note].copy_from_slice(&(1_u32 << 30).to_le_bytes());
    file
}

/// Memory is a multiple of 2 MiB and at most 4 GiB.
#[test]
fn memory_is_rounded_with_a_warning() {
    let hello = guest("hello");
    let run = |mem: &str| run(&[Path::new(mem), &hello]);
    let output = run("--mem=33");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).starts_with("solo5-hvt: warning: guest memory is rounded to 32 MB"));
    assert_program_fails("solo5-hvt", &run("--mem=4097"), 1, "2 to 4096 MB");
    assert_program_fails("solo5-hvt", &run("--mem=0"), 1, "2 to 4096 MB");
}
