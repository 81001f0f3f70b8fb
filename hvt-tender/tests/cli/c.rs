//! Unikernels in C, built and started as a user does.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{guest, tender, tender_with, text};

/// A program that defines a function which compilers call and the library also defines.
const SOURCE: &str = r#"
#include <solo5.h>

static char copied[64];

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ((volatile char *)to)[i] = ((const char *)from)[i] ^ 1;
    return to;
}

int solo5_app_main(const struct solo5_start_info *info)
{
    volatile size_t size = 3;
    solo5_handle_t handle;
    struct solo5_block_info about;
    memcpy(copied, "IDX", size);
    solo5_console_write(copied, size);
    solo5_console_write(info->cmdline, 1);
    return solo5_block_acquire("storage", &handle, &about) == SOLO5_R_OK ? (int)about.block_size >> 9 : 99;
}
"#;

const MANIFEST: &str =
    r#"{ "type": "solo5.manifest", "version": 1, "devices": [ { "name": "storage", "type": "BLOCK_BASIC" } ] }"#;

/// `scripts/cc-guest` builds a unikernel from sources and a manifest in one step or in two.
/// Functions of the application take precedence over functions of the library.
#[test]
fn cc_guest_makes_a_unikernel() {
    // Build the guests first, so that two builds do not wait for each other.
    guest("c-hello");
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("app.c"), SOURCE).unwrap();
    fs::write(path("manifest.json"), MANIFEST).unwrap();
    fs::write(path("disk"), vec![0; 8192]).unwrap();
    let cc_guest = |line: &str| {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/cc-guest"));
        command.args(line.split(' ')).current_dir(&folder).env("HVT_ELFTOOL", env!("CARGO_BIN_EXE_hvt-elftool"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    };
    cc_guest("-O1 -Wall -Werror -o one.hvt app.c manifest.json");
    cc_guest("-O2 -c app.c manifest.json");
    cc_guest("-o two.hvt app.o manifest.o");
    for app in ["one.hvt", "two.hvt"] {
        let mut command = tender();
        command.args(["--mem=2", "--backend=process", "--block-sector-size=4096", "--block=disk"]);
        let output = command.args([app, "--solo5:quiet", "x"]).current_dir(&folder).output().unwrap();
        let said = (output.status.code(), text(&output.stdout), text(&output.stderr));
        assert_eq!(said, (Some(8), "HEYx", ""), "{app}");
    }
}

/// In C, a command line is a sequence of bytes. In Rust it is text, and a guest in Rust reports
/// invalid UTF-8.
#[test]
fn arguments_need_not_be_text() {
    let bytes = OsStr::from_bytes(b"\xff\xfe");
    let output = tender_with("c-hello").args([OsStr::new("--solo5:quiet"), bytes]).output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"Command line is: '\xff\xfe'\nSUCCESS\n"[..]));
    let output = tender_with("hello").arg(bytes).output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert!(text(&output.stdout).contains("Solo5: ABORT: the command line is not UTF-8"), "{}", text(&output.stdout));
}
