//! Privileged instructions: instructions permitted at EL1 work, and others end in the guest's own
//! report.

use crate::cases::{stopped, trap};
use crate::{Case, Console, End, Reason};

const fn works(name: &'static str, mode: &'static [&'static str]) -> Case {
    Case { name, guest: "cpu", arguments: mode, ..Case::ORDINARY }
}

/// EC 0: an undefined instruction.
const fn undefined(name: &'static str, mode: &'static [&'static str]) -> Case {
    trap(name, "cpu", mode, &["Solo5: Trap: EL1 Synchronous Abort caught\n", "\t ESR    : 0x0000000002000000\n"])
}

const fn never(name: &'static str, mode: &'static [&'static str], says: &'static [&'static str]) -> Case {
    Case {
        name,
        guest: "cpu",
        arguments: mode,
        ends: &[End::Never],
        console: Console::cut_short(says),
        ..Case::ORDINARY
    }
}

/// The cases.
pub const CASES: &[Case] = &[
    // Operations that a Solo5 guest performs at the start, executed again.
    works("vectors", &["vectors"]),
    works("entry-state", &["entry-state"]),
    works("interrupt-masks", &["interrupt-masks"]),
    works("thread-registers", &["thread-registers"]),
    works("flush-tlb", &["flush-tlb"]),
    works("caches", &["caches"]),
    works("counter", &["counter"]),
    works("cpu-features", &["features"]),
    Case { name: "resume-after-exceptions", guest: "resume", ..Case::ORDINARY },
    undefined("el2-register", &["el2-register"]),
    undefined("el2-vectors", &["el2-vectors"]),
    undefined("unknown-register", &["unknown-register"]),
    // Until a guest installs its own vectors, an exception takes the tender's vectors, which end
    // the guest.
    stopped("vectors-of-the-tender", "cpu", &["vectors-of-the-tender"], &[End::Stopped(Reason::NoHandler)]),
    // These guests run until the tender is terminated.
    never("wait-for-interrupt", &["wait-for-interrupt"], &["waiting\n"]),
    never("no-vectors", &["no-vectors"], &["no vectors\n"]),
    never("no-translation-table", &["no-translation-table"], &["no translation table\n"]),
];
