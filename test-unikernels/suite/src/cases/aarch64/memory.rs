//! Reports of a guest that violates memory permissions: a permission fault if the address is
//! mapped, otherwise a translation fault.

use crate::cases::{stopped, trap};
use crate::{Case, End, Reason};

const fn case(name: &'static str, mode: &'static [&'static str], report: &'static [&'static str]) -> Case {
    trap(name, "memory", mode, report)
}

/// The cases.
pub const CASES: &[Case] = &[
    case(
        "read-tender-memory",
        &["read", "0xf000"],
        &["Data Abort Address: 0x000000000000f000\n", "\t ESR    : 0x0000000096000007\n"],
    ),
    case(
        "write-page-table",
        &["write", "0x2000"],
        &["Data Abort Address: 0x0000000000002000\n", "\t ESR    : 0x0000000096000047\n"],
    ),
    case(
        "write-boot-info",
        &["write", "0x10000"],
        &["Data Abort Address: 0x0000000000010000\n", "\t ESR    : 0x000000009600004f\n"],
    ),
    case("run-boot-info", &["run", "0x10000"], &["\t ESR    : 0x000000008600000f\n\t PC     : 0x0000000000010000\n"]),
    case(
        "write-read-only",
        &["write", "constant"],
        &["Data Abort Address: 0x00000000001", "\t ESR    : 0x000000009600004f\n"],
    ),
    case("run-read-only", &["run", "constant"], &["\t ESR    : 0x000000008600000f\n\t PC     : 0x00000000001"]),
    // The first bytes of the code. The second-level translation forbids the write.
    stopped("write-code", "memory", &["write", "0x100000"], &[End::Stopped(Reason::Memory)]),
    case("run-data", &["run", "variable"], &["\t ESR    : 0x000000008600000f\n\t PC     : 0x00000000001"]),
    // If memory is mapped in blocks of 2 MiB, the fault is reported one level earlier.
    case("run-stack", &["run", "stack"], &["\t ESR    : 0x000000008600000", "\t PC     : 0x0000000001fff"]),
    case("run-heap", &["run", "heap"], &["\t ESR    : 0x000000008600000", "\t PC     : 0x00000000001"]),
    trap("c-tls-of-nobody", "c-tls", &["early"], &["Data Abort Address: 0x00000000000000", "Solo5: ABORT: "]),
];
