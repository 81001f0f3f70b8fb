//! Memory permissions: segments have the permissions in their ELF program headers, and the tender's
//! memory is inaccessible. The report of a violation depends on the architecture.

use crate::{Ability, Case, Console, End, Reason, When};

/// The cases.
pub const CASES: &[Case] = &[
    // A writable page stays writable regardless of its neighbours.
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
