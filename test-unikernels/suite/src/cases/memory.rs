//! Memory rules: segments have the permissions that their ELF program headers say, the tender's own memory has none.

use super::{stopped, trap};
use crate::{Ability, Case, Console, End, Reason, When};

const fn case(name: &'static str, mode: &'static [&'static str], report: &'static [&'static str]) -> Case {
    trap(name, "memory", mode, report)
}

/// The cases.
pub const CASES: &[Case] = &[
    case("read-tender-memory", &["read", "0xf000"], &["type=#PF ec=0x0 rip=0x1", "Solo5: trap: cr2=0xf000\n"]),
    case("write-page-table", &["write", "0x2000"], &["type=#PF ec=0x2 rip=0x1", "Solo5: trap: cr2=0x2000\n"]),
    case("write-boot-info", &["write", "0x10000"], &["type=#PF ec=0x3 rip=0x1", "Solo5: trap: cr2=0x10000\n"]),
    case("run-boot-info", &["run", "0x10000"], &["type=#PF ec=0x11 rip=0x10000 ", "Solo5: trap: cr2=0x10000\n"]),
    case("write-read-only", &["write", "constant"], &["type=#PF ec=0x3 rip=0x1", "Solo5: trap: cr2=0x1"]),
    case("run-read-only", &["run", "constant"], &["type=#PF ec=0x11 rip=0x1", "Solo5: trap: cr2=0x1"]),
    // The first byte of the code. The machine below the guest's page tables forbids it.
    stopped("write-code", "memory", &["write", "0x100000"], &[End::Stopped(Reason::Memory)]),
    case("run-data", &["run", "variable"], &["type=#PF ec=0x11 rip=0x1", "Solo5: trap: cr2=0x1"]),
    case("run-stack", &["run", "stack"], &["type=#PF ec=0x11 rip=0x1fff", "Solo5: trap: cr2=0x1fff"]),
    case("run-heap", &["run", "heap"], &["type=#PF ec=0x11 rip=0x1", "Solo5: trap: cr2=0x1"]),
    // A writable page stays writable, whoever is its neighbour.
    Case { name: "fresh-memory", guest: "memory", arguments: &["fresh"], ..Case::ORDINARY },
    Case { name: "write-edges", guest: "memory", arguments: &["edges"], ..Case::ORDINARY },
    Case {
        name: "read-code-where-it-is-execute-only",
        guest: "memory",
        arguments: &["read", "0x100000"],
        when: When::Can(Ability::ExecuteOnly),
        ends: &[End::Status(255), End::Stopped(Reason::Memory)],
        console: Console::cut_short(&[]),
        ..Case::ORDINARY
    },
    Case {
        name: "read-code-where-it-is-readable",
        guest: "memory",
        arguments: &["read", "0x100000"],
        when: When::Cannot(Ability::ExecuteOnly),
        ends: &[End::Status(1)],
        console: Console::holds(&["FAILURE: the access went through\n"]),
        ..Case::ORDINARY
    },
];
