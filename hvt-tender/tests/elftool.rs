//! Command line of `hvt-elftool`.

#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

const JSON: &str = r#"{"type":"solo5.manifest","version":1,"devices":[{"name":"service","type":"NET_BASIC"}]}"#;

fn elftool(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hvt-elftool"));
    command.args(words).stdin(Stdio::null());
    command
}

/// Runs the program with this standard input.
fn with_input(words: &[&str], input: &str) -> Output {
    let mut command = elftool(words);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Asserts that the program failed with this message in one line, and printed nothing else.
#[track_caller]
fn assert_fails(output: &Output, message: &str) {
    assert_eq!((text(&output.stderr), text(&output.stdout)), (format!("{message}\n").as_str(), ""));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn makes_a_manifest_from_files_and_streams() {
    let streamed = with_input(&["gen-manifest", "-", "-"], JSON);
    assert!(streamed.status.success() && streamed.stderr.is_empty(), "{}", text(&streamed.stderr));
    let source = text(&streamed.stdout);
    assert!(source.contains("#include \"mft_abi.h\"") && source.contains(".name = \"service\""), "{source}");
    let folder = tempfile::tempdir().unwrap();
    let (json, c) = (folder.path().join("manifest.json"), folder.path().join("manifest.c"));
    fs::write(&json, JSON).unwrap();
    let output = elftool(&["gen-manifest"]).arg(&json).arg(&c).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
    assert_eq!(fs::read_to_string(&c).unwrap(), source);
}

#[test]
fn a_wrong_manifest_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let c = folder.path().join("manifest.c");
    let output = with_input(&["gen-manifest", "-", c.to_str().unwrap()], "{\n  \"type\": 1\n}");
    assert_fails(&output, "hvt-elftool: -:2:11: expected value");
    assert!(!c.exists());
}

#[test]
fn an_incomplete_write_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (json, c) = (folder.path().join("manifest.json"), folder.path().join("manifest.c"));
    fs::write(&json, JSON).unwrap();
    let mut command = elftool(&["gen-manifest"]);
    let limit = || {
        setrlimit(Resource::RLIMIT_FSIZE, 100, 100)?;
        // SAFETY: SIG_IGN installs no handler.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
        Ok(())
    };
    // SAFETY: `setrlimit` and `signal` are async-signal-safe.
    unsafe { command.arg(&json).arg(&c).pre_exec(limit) };
    let message = format!("hvt-elftool: cannot write {}: File too large (os error 27)", c.display());
    assert_fails(&command.output().unwrap(), &message);
    assert!(!c.exists());
    let output = with_input(&["gen-manifest", "-", "/dev/full"], JSON);
    assert_fails(&output, "hvt-elftool: cannot write /dev/full: No space left on device (os error 28)");
    assert!(std::path::Path::new("/dev/full").exists());
}

#[test]
fn prints_abi_and_manifest_of_a_unikernel() {
    let guests = test_suite::guests::directory(env!("CARGO_BIN_EXE_hvt-elftool")).expect("test unikernels");
    let query = |what: &str, guest: &str| {
        let output = elftool(&[what]).arg(guests.join(guest)).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    let abi = query("query-abi", "hello");
    assert_eq!(abi, "{\n  \"type\": \"solo5.abi\",\n  \"target\": \"hvt\",\n  \"version\": 2\n}\n");
    let manifest = query("query-manifest", "net");
    let device = "    { \"name\": \"service\", \"type\": \"NET_BASIC\" }\n";
    let expected =
        format!("{{\n  \"type\": \"solo5.manifest\",\n  \"version\": 1,\n  \"devices\": [\n{device}  ]\n}}\n");
    assert_eq!(manifest, expected);
    // The output is valid input for a manifest.
    let again = with_input(&["gen-manifest", "-", "-"], &query("query-manifest", "devices63"));
    assert!(again.status.success() && text(&again.stdout).contains("#define MFT_ENTRIES 64"));
}

#[test]
fn says_what_is_wrong() {
    let run = |words: &[&str]| elftool(words).output().unwrap();
    assert_fails(
        &run(&[]),
        "hvt-elftool: no command given: expected gen-manifest, query-abi, query-manifest; see --help",
    );
    assert_fails(&run(&["frob"]), "hvt-elftool: unknown command 'frob'; see --help");
    assert_fails(
        &run(&["query-abbi", "a"]),
        "hvt-elftool: unknown command 'query-abbi' (did you mean 'query-abi'?); see --help",
    );
    assert_fails(&run(&["--frob"]), "hvt-elftool: unknown option '--frob'; see --help");
    assert_fails(&run(&["gen-manifest", "-"]), "hvt-elftool: <OUTPUT>: argument missing; see --help");
    assert_fails(&run(&["query-abi", "a", "b"]), "hvt-elftool: unexpected argument 'b'; see --help");
    let missing = "No such file or directory (os error 2)";
    assert_fails(&run(&["query-abi", "/nowhere/a\nb"]), &format!("hvt-elftool: cannot read /nowhere/a\\nb: {missing}"));
    let unwritable = with_input(&["gen-manifest", "-", "/nowhere/c"], JSON);
    assert_fails(&unwritable, &format!("hvt-elftool: cannot write /nowhere/c: {missing}"));
    for command in ["query-abi", "query-manifest"] {
        let words = "/bin/true: not a unikernel but an ordinary";
        let output = run(&[command, "/bin/true"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).starts_with(&format!("hvt-elftool: {words}")), "{}", text(&output.stderr));
    }
}

#[test]
fn its_messages_begin_with_its_name() {
    let mut command = elftool(&[]);
    assert_fails(
        &command.arg0("/usr/bin/solo5-elftool").output().unwrap(),
        "solo5-elftool: no command given: expected gen-manifest, query-abi, query-manifest; see --help",
    );
    let help = elftool(&["--help"]).arg0("solo5-elftool").output().unwrap();
    assert!(help.status.success() && text(&help.stdout).contains("Usage: hvt-elftool <COMMAND>"));
    assert!(text(&help.stdout).lines().all(|line| line.chars().count() <= 80), "{}", text(&help.stdout));
    let version = elftool(&["--version"]).output().unwrap();
    assert_eq!(text(&version.stdout), format!("hvt-elftool {}\n", env!("CARGO_PKG_VERSION")));
}
