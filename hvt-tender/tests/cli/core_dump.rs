//! Core files of crashed guests as Debian's `gdb` reads them. The tests run on the backend that
//! every machine has, or on the backend in `HVT_BACKENDS`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use goblin::elf::Elf;
use tempfile::TempDir;

use super::{as_solo5_hvt, assert_program_fails, backend, cpu, guest, tender, text};

/// Runs a guest that crashes, and returns the core file named in its message.
fn crash(folder: &TempDir, words: &[&str], status: i32) -> (Output, PathBuf) {
    let mut command = as_solo5_hvt(tender());
    command.args(["--mem=64", "--backend", &backend()]).arg(format!("--dumpcore={}", folder.path().display()));
    let output = command.arg(guest(words[0])).args(&words[1..]).output().unwrap();
    assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
    let core = text(&output.stderr).lines().find_map(|line| {
        let name = &line[line.find("core.solo5-hvt.")?..];
        let (_, process) = name.rsplit_once('.')?;
        process.bytes().all(|digit| digit.is_ascii_digit()).then(|| folder.path().join(name))
    });
    let core = core.unwrap_or_else(|| panic!("no core file: {}", text(&output.stderr)));
    (output, core)
}

/// Returns the output of gdb for these commands, or `None` without gdb, which a continuous
/// integration must have.
fn gdb(program: &Path, core: &Path, commands: &[&str]) -> Option<String> {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-iex", "set debuginfod enabled off"]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    match gdb.arg(program).arg(core).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
            Some(text(&output.stdout).to_owned())
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "gdb: {error}");
            eprintln!("SKIPPED: this test needs gdb: {error}");
            None
        }
    }
}

/// Returns the linker's name of the variable.
fn variable(program: &Path, name: &str) -> String {
    let file = fs::read(program).unwrap();
    let elf = Elf::parse(&file).unwrap();
    let mut names = elf.syms.iter().filter_map(|symbol| elf.strtab.get_at(symbol.st_name));
    names.find(|symbol| symbol.contains(name)).expect(name).to_owned()
}

/// The guest traps and passes the address of its trap frame to the tender. The core file contains
/// the registers at the trap.
#[test]
fn gdb_reads_a_guest_that_gave_up() {
    let folder = TempDir::new().unwrap();
    let (output, core) = crash(&folder, &["exception", "undefined"], 255);
    let found = core.metadata().unwrap();
    assert!(found.len() > 64 << 20 && found.blocks() * 512 < 4 << 20, "{} of {}", found.blocks() * 512, found.len());
    let report = text(&output.stdout);
    let pc = cpu::trap(report).expect(report);
    let (name, kind) = cpu::VARIABLE;
    let variable = format!("output *({kind} *)&{} != 0", variable(&guest("exception"), name));
    let commands = ["printf \"pc=%#lx\\n\", $pc", "x/i $pc", "echo changed=", &variable, "echo \\n", "info symbol $pc"];
    let Some(said) = gdb(&guest("exception"), &core, &commands) else { return };
    assert!(said.contains("SIGABRT"), "{said}");
    assert!(said.contains(&format!("pc={pc:#x}\n")) && said.contains(cpu::UNDEFINED), "{pc:#x}: {said}");
    assert!(said.contains("changed=1"), "{said}");
    assert!(said.contains("in section .text"), "{said}");
}

#[test]
fn gdb_reads_a_guest_that_was_stopped() {
    let folder = TempDir::new().unwrap();
    let (output, core) = crash(&folder, cpu::STOPPED, 1);
    let message = text(&output.stderr);
    let pc = message.split_once(')').and_then(|(message, _)| message.rsplit('=').next()).expect(message);
    let Some(said) = gdb(&guest("port"), &core, &["printf \"pc=%#lx\\n\", $pc"]) else { return };
    assert!(said.contains(&format!("pc={pc}\n")) && said.contains("SIGSEGV"), "{pc}: {said}");
}

/// The tender reports the position of the guest and writes a core file, as for any stopped guest.
#[test]
fn a_guest_without_a_handler_is_reported_where_it_needed_one() {
    let folder = TempDir::new().unwrap();
    let (output, core) = crash(&folder, cpu::WITHOUT_HANDLER, 1);
    let report = text(&output.stderr);
    let mut lines = report.lines().filter(|line| !line.contains("core.solo5-hvt."));
    let (what, place, registers) = (lines.next().unwrap(), lines.next().unwrap(), lines.next().unwrap());
    assert!(what.contains("the guest has no handler for an exception it raised"), "{report}");
    let pc = what.strip_suffix(')').and_then(|what| what.rsplit('=').next()).expect(report);
    assert!(place.starts_with("solo5-hvt:   in ") && place.contains("+0x"), "{report}");
    assert!(registers.contains(&format!("={pc} ")), "{report}");
    let Some(said) = gdb(&guest("cpu"), &core, &["printf \"pc=%#lx\\n\", $pc", "x/i $pc"]) else { return };
    assert!(said.contains(&format!("pc={pc}\n")) && said.contains(cpu::UNDEFINED), "{pc}: {said}");
}

/// gdb uses the debug information of the program: stack frames, variables and floating-point
/// registers.
#[test]
fn gdb_reads_variables_and_vector_registers() {
    let folder = TempDir::new().unwrap();
    let (_, core) = crash(&folder, &["debuggee", "fault"], 1);
    let commands = [&["set language c"], cpu::LOOKS_AT_FAULT, &["set language rust"], &VARIABLES].concat();
    const VARIABLES: [&str; 2] = ["print *(&debuggee::WATCHED as *mut u64)", "backtrace"];
    let Some(said) = gdb(&guest("debuggee"), &core, &commands) else { return };
    let words = ["= 4660", "debuggee::arch::fault ()", "in debuggee::main ("];
    for words in cpu::SEES_AT_FAULT.iter().chain(&words) {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_guest_that_ends_well_leaves_none() {
    let folder = TempDir::new().unwrap();
    for status in ["0", "1", "254"] {
        let option = format!("--dumpcore={}", folder.path().display());
        let output = tender().args(["--backend", &backend(), &option]).arg(guest("exit")).arg(status).output().unwrap();
        assert_eq!(text(&output.stderr), "");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_cannot_be_written_is_refused_at_the_start() {
    let output = as_solo5_hvt(tender()).arg("--dumpcore=/nowhere").arg(guest("hello")).output().unwrap();
    assert_program_fails("solo5-hvt", &output, 1, "--dumpcore /nowhere: cannot write core files there: ");
}
