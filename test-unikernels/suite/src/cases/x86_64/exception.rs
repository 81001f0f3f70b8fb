//! Exceptions: the report of the guest's handler matches the behaviour of the CPU (Intel SDM volume
//! 3, 6.15).

use crate::cases::trap;
use crate::{Ability, Case, When};

const fn case(name: &'static str, mode: &'static [&'static str], report: &'static [&'static str]) -> Case {
    trap(name, "exception", mode, report)
}

const fn exact(name: &'static str, mode: &'static [&'static str], report: &'static [&'static str]) -> Case {
    Case { when: When::Can(Ability::ExactExceptions), ..case(name, mode, report) }
}

/// The cases.
pub const CASES: &[Case] = &[
    case("divide", &["divide"], &["Solo5: trap: type=#DE ec=0x0 rip=0x1"]),
    case("single-step", &["single-step"], &["Solo5: trap: type=#DB ec=0x0 rip=0x1"]),
    case("breakpoint", &["breakpoint"], &["Solo5: trap: type=#BP ec=0x0 rip=0x1"]),
    case("undefined", &["undefined"], &["Solo5: trap: type=#UD ec=0x0 rip=0x1"]),
    case("not-canonical", &["not-canonical"], &["Solo5: trap: type=#GP ec=0x0 rip=0x1"]),
    exact("stack-not-canonical", &["stack-not-canonical"], &["Solo5: trap: type=#SS ec=0x0 rip=0x1"]),
    case("x87", &["x87"], &["Solo5: trap: type=#MF ec=0x0 rip=0x1"]),
    exact("simd", &["simd"], &["Solo5: trap: type=#XM ec=0x0 rip=0x1"]),
    case("zero-page-read", &["read", "0x8"], &["type=#PF ec=0x0 rip=0x1", "Solo5: trap: cr2=0x8\n"]),
    case("zero-page-write", &["write", "0x8"], &["type=#PF ec=0x2 rip=0x1", "Solo5: trap: cr2=0x8\n"]),
    case("zero-page-run", &["run", "0x8"], &["type=#PF ec=0x10 rip=0x8 ", "Solo5: trap: cr2=0x8\n"]),
    case("beyond-memory-read", &["read", "0x2000000"], &["type=#PF ec=0x0 rip=0x1", "cr2=0x2000000\n"]),
    // Eight bytes, only four of which exist.
    case("across-the-end-read", &["read", "0x1fffffc"], &["type=#PF ec=0x0 rip=0x1", "cr2=0x2000000\n"]),
    case("beyond-4-gib-write", &["write", "0x400000000"], &["type=#PF ec=0x2 rip=0x1", "cr2=0x400000000\n"]),
    case("upper-half-read", &["read", "0xffffffff80000000"], &["type=#PF ec=0x0 rip=0x1", "cr2=0xffffffff80000000\n"]),
    // The handler has a separate stack.
    case("no-stack", &["no-stack"], &["type=#PF ec=0x2 rip=0x1", " rsp=0x8 ", "Solo5: trap: cr2=0x0\n"]),
    // The table ends before the gate of #PF. Delivery of the #PF therefore raises #GP.
    case("double-fault", &["double-fault"], &["Solo5: trap: type=#DF ec=0x0 rip=0x1"]),
    // The vector is beyond the end of the table.
    case("interrupt-0x80", &["interrupt-0x80"], &["Solo5: trap: type=#GP ec=0x", "02 rip=0x1"]),
    exact("interrupt-0x80-exact", &["interrupt-0x80"], &["Solo5: trap: type=#GP ec=0x402 rip=0x1"]),
];
