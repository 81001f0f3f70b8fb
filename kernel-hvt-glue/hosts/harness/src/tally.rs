//! How checks come out.

use alloc::string::String;
use core::fmt;

/// What comes of a check. `Err` says what is not as it should be.
pub type Answer = Result<Verdict, String>;

/// A check's answer when nothing is wrong.
pub enum Verdict {
    /// It is as it should be.
    Passed,
    /// It cannot be found out here, for this reason.
    Skipped(&'static str),
}

/// How many checks held.
pub struct Tally {
    say: fn(fmt::Arguments<'_>),
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    /// Nothing yet; `say` prints a line.
    #[must_use]
    pub const fn new(say: fn(fmt::Arguments<'_>)) -> Self {
        Self { say, passed: 0, failed: 0, skipped: 0 }
    }

    /// Prints a line that counts for nothing.
    pub fn say(&self, line: fmt::Arguments<'_>) {
        (self.say)(line);
    }

    /// Counts and prints an answer.
    pub fn add(&mut self, kind: &str, name: &str, answer: Answer) {
        match answer {
            Ok(Verdict::Passed) => {
                self.passed += 1;
                self.say(format_args!("{kind} {name}: ok"));
            }
            Ok(Verdict::Skipped(reason)) => {
                self.skipped += 1;
                self.say(format_args!("{kind} {name}: SKIPPED: {reason}"));
            }
            Err(error) => {
                self.failed += 1;
                self.say(format_args!("{kind} {name}: FAILED: {error}"));
            }
        }
    }

    /// Counts and prints the answer of a check that is never skipped.
    pub fn add_result(&mut self, kind: &str, name: &str, result: Result<(), String>) {
        self.add(kind, name, result.map(|()| Verdict::Passed));
    }

    /// Whether no check failed.
    #[must_use]
    pub fn all_held(&self) -> bool {
        self.failed == 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}
