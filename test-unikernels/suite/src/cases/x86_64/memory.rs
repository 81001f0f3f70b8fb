//! Reports of a guest that violates memory permissions.

use crate::cases::{stopped, trap};
use crate::{Case, End, Reason};

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
    // The first byte of the code. The second-level translation forbids the write.
    stopped("write-code", "memory", &["write", "0x100000"], &[End::Stopped(Reason::Memory)]),
    case("run-data", &["run", "variable"], &["type=#PF ec=0x11 rip=0x1", "Solo5: trap: cr2=0x1"]),
    case("run-stack", &["run", "stack"], &["type=#PF ec=0x11 rip=0x1fff", "Solo5: trap: cr2=0x1fff"]),
    case("run-heap", &["run", "heap"], &["type=#PF ec=0x11 rip=0x1", "Solo5: trap: cr2=0x1"]),
    trap("c-tls-of-nobody", "c-tls", &["early"], &["type=#PF ec=", "Solo5: ABORT: "]),
];
