//! Memory rules: segments have the permissions that their ELF program headers say, the tender's own memory has none. What
//! a guest reports when it breaks them depends on the architecture.

use crate::{Ability, Case, Console, End, Reason, When};

/// The cases.
pub const CASES: &[Case] = &[
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
