//! How checks come out.

use alloc::string::String;
use core::fmt;

use crate::console::println;

/// What comes of a check. `Err` says what is not as it should be.
pub(crate) type Answer = Result<Verdict, String>;

/// A check's answer when nothing is wrong.
pub(crate) enum Verdict {
    /// It is as it should be.
    Passed,
    /// It cannot be found out here, for this reason.
    Skipped(&'static str),
}

/// How many checks held.
#[derive(Default)]
pub(crate) struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    /// Counts and prints an answer.
    pub(crate) fn add(&mut self, kind: &str, name: &str, answer: Answer) {
        match answer {
            Ok(Verdict::Passed) => {
                self.passed += 1;
                println!("bare: {kind} {name}: ok");
            }
            Ok(Verdict::Skipped(reason)) => {
                self.skipped += 1;
                println!("bare: {kind} {name}: SKIPPED: {reason}");
            }
            Err(error) => {
                self.failed += 1;
                println!("bare: {kind} {name}: FAILED: {error}");
            }
        }
    }

    /// Counts and prints the answer of a check that is never skipped.
    pub(crate) fn add_result(&mut self, kind: &str, name: &str, result: Result<(), String>) {
        self.add(kind, name, result.map(|()| Verdict::Passed));
    }

    /// Whether no check failed.
    pub(crate) fn all_held(&self) -> bool {
        self.failed == 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}
