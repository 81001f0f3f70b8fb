//! The core file of a guest that crashed, as Debian's `gdb` sees it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use goblin::elf::Elf;
use tempfile::TempDir;

use super::{as_solo5_hvt, assert_program_fails, guest, tender, text};

/// Runs a guest that crashes; returns the core file that its message names.
fn crash(folder: &TempDir, words: &[&str], status: i32) -> (Output, PathBuf) {
    let mut command = as_solo5_hvt(tender());
    command.args(["--backend=process", "--mem=64"]).arg(format!("--dumpcore={}", folder.path().display()));
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

/// What gdb answers to these commands; `None` where there is no gdb, which a continuous integration must have.
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

/// The name that the linker knows the variable of this name by.
fn variable(program: &Path, name: &str) -> String {
    let file = fs::read(program).unwrap();
    let elf = Elf::parse(&file).unwrap();
    let mut names = elf.syms.iter().filter_map(|symbol| elf.strtab.get_at(symbol.st_name));
    names.find(|symbol| symbol.contains(name)).expect(name).to_owned()
}

/// The guest traps, and leaves the address of its trap frame: the registers are those at the trap.
#[test]
fn gdb_reads_a_guest_that_gave_up() {
    let folder = TempDir::new().unwrap();
    let (output, core) = crash(&folder, &["exception", "undefined"], 255);
    let found = core.metadata().unwrap();
    assert!(found.len() > 64 << 20 && found.blocks() * 512 < 4 << 20, "{} of {}", found.blocks() * 512, found.len());
    let report = text(&output.stdout);
    let rip = report.split("rip=").nth(1).and_then(|rest| rest.split(' ').next()).expect(report);
    let variable = format!("output *(unsigned char *)&{}", variable(&guest("exception"), "REPORTING"));
    let commands =
        ["printf \"rip=%#lx\\n\", $rip", "x/i $rip", "echo reporting=", &variable, "echo \\n", "info symbol $rip"];
    let Some(said) = gdb(&guest("exception"), &core, &commands) else { return };
    assert!(said.contains("SIGABRT"), "{said}");
    assert!(said.contains(&format!("rip={rip}\n")) && said.contains("ud2"), "{rip}: {said}");
    // It is 0 in the file, and set by the guest when it reports.
    assert!(said.contains("reporting=1"), "{said}");
    assert!(said.contains("in section .text"), "{said}");
}

#[test]
fn gdb_reads_a_guest_that_was_stopped() {
    let folder = TempDir::new().unwrap();
    let (output, core) = crash(&folder, &["port", "out32", "0x4ff"], 1);
    let message = text(&output.stderr);
    let rip = message.split("rip=").nth(1).and_then(|rest| rest.split(')').next()).expect(message);
    let Some(said) = gdb(&guest("port"), &core, &["printf \"rip=%#lx rdx=%#lx\\n\", $rip, $rdx"]) else { return };
    assert!(said.contains(&format!("rip={rip} rdx=0x4ff\n")) && said.contains("SIGSEGV"), "{rip}: {said}");
}

/// By what it knows of the program: the frames of the stack, variables, and the registers of SSE and x87.
#[test]
fn gdb_reads_variables_and_vector_registers() {
    let folder = TempDir::new().unwrap();
    let (_, core) = crash(&folder, &["debuggee", "fault"], 1);
    let commands = [
        "print debuggee::WATCHED",
        "set language c",
        "printf \"xmm7=%g %g st0=%g\\n\", $xmm7.v2_double[0], $xmm7.v2_double[1], $st0",
        "printf \"cs=%#x ss=%#x fctrl=%#x mxcsr=%#x\\n\", $cs, $ss, $fctrl, $mxcsr",
        "print $rax",
        "backtrace",
    ];
    let Some(said) = gdb(&guest("debuggee"), &core, &commands) else { return };
    for words in [
        "xmm7=0.5 -2.25 st0=1\n",
        "cs=0x8 ss=0x10 fctrl=0x37f mxcsr=0x1f80\n",
        "= 65261\n",
        "value: 4660",
        "#0  debuggee::arch::fault ()",
        "in debuggee::main (",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_guest_that_ends_well_leaves_none() {
    let folder = TempDir::new().unwrap();
    for status in ["0", "1", "254"] {
        let option = format!("--dumpcore={}", folder.path().display());
        let output = tender().args(["--backend=process", &option]).arg(guest("exit")).arg(status).output().unwrap();
        assert_eq!(text(&output.stderr), "");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_cannot_be_written_is_refused_at_the_start() {
    let output = as_solo5_hvt(tender()).arg("--dumpcore=/nowhere").arg(guest("hello")).output().unwrap();
    assert_program_fails("solo5-hvt", &output, 1, "--dumpcore /nowhere: core files cannot be left there: ");
}
