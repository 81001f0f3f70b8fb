//! Exceptions: the report of the guest's handler matches the behaviour of the CPU.

use crate::cases::trap;
use crate::{Case, Console, End};

const fn case(name: &'static str, mode: &'static [&'static str], report: &'static [&'static str]) -> Case {
    trap(name, "exception", mode, report)
}

/// The cases.
pub const CASES: &[Case] = &[
    case("undefined", &["undefined"], &["\t ESR    : 0x0000000002000000\n\t PC     : 0x00000000001"]),
    case("breakpoint", &["breakpoint"], &["\t ESR    : 0x00000000f2000007\n\t PC     : 0x00000000001"]),
    case("supervisor-call", &["supervisor-call"], &["\t ESR    : 0x0000000056000005\n\t PC     : 0x00000000001"]),
    case("branch-not-aligned", &["branch-not-aligned"], &["\t ESR    : 0x000000008a000000\n\t PC     : 0x00000000001"]),
    case("exclusive-not-aligned", &["exclusive-not-aligned"], &["\t ESR    : 0x0000000096000021\n"]),
    case(
        "zero-page-read",
        &["read", "0x8"],
        &["Data Abort Address: 0x0000000000000008\n", "\t ESR    : 0x0000000096000007\n"],
    ),
    case(
        "zero-page-write",
        &["write", "0x8"],
        &["Data Abort Address: 0x0000000000000008\n", "\t ESR    : 0x0000000096000047\n"],
    ),
    case("zero-page-run", &["run", "0x8"], &["\t ESR    : 0x0000000086000007\n\t PC     : 0x0000000000000008\n"]),
    case(
        "beyond-memory-read",
        &["read", "0x2000000"],
        &["Data Abort Address: 0x0000000002000000\n", "\t ESR    : 0x0000000096000006\n"],
    ),
    // Eight bytes, only four of which exist.
    case(
        "across-the-end-read",
        &["read", "0x1fffffc"],
        &["Data Abort Address: 0x0000000002000000\n", "\t ESR    : 0x0000000096000006\n"],
    ),
    case(
        "beyond-device-memory-write",
        &["write", "0x140000000"],
        &["Data Abort Address: 0x0000000140000000\n", "\t ESR    : 0x0000000096000045\n"],
    ),
    case(
        "beyond-4-gib-write",
        &["write", "0x400000000"],
        &["Data Abort Address: 0x0000000400000000\n", "\t ESR    : 0x0000000096000045\n"],
    ),
    // The upper range has no tables. The level of the fault is not compared.
    case(
        "upper-half-read",
        &["read", "0xffffffff80000000"],
        &["Data Abort Address: 0xffffffff80000000\n", "\t ESR    : 0x000000009600000"],
    ),
    // The address is in neither range.
    case(
        "between-the-ranges-read",
        &["read", "0x10000000000"],
        &["Data Abort Address: 0x0000010000000000\n", "\t ESR    : 0x0000000096000004\n"],
    ),
    // The handler has a separate stack.
    case("no-stack", &["no-stack"], &["Data Abort Address: 0xfffffffffffffff8\n", "\t SP     : 0x0000000000000008\n"]),
    // The handler has no stack, and there is no report.
    Case {
        name: "in-a-report",
        guest: "exception",
        arguments: &["--solo5:quiet", "in-a-report"],
        ends: &[End::Status(255)],
        console: Console::exact(b""),
        ..Case::ORDINARY
    },
];
