//! Results of checks.

use alloc::string::String;
use core::fmt;

/// Result of a check. `Err` describes the failure.
pub type Answer = Result<Verdict, String>;

/// Result of a check that did not fail.
pub enum Verdict {
    /// The check passed.
    Passed,
    /// The check is not possible here, for this reason.
    Skipped(&'static str),
}

/// Counts of passed, failed and skipped checks.
pub struct Tally {
    say: fn(fmt::Arguments<'_>),
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    /// Creates an empty tally; `say` prints a line.
    #[must_use]
    pub const fn new(say: fn(fmt::Arguments<'_>)) -> Self {
        Self { say, passed: 0, failed: 0, skipped: 0 }
    }

    /// Prints a line without counting it.
    pub fn say(&self, line: fmt::Arguments<'_>) {
        (self.say)(line);
    }

    /// Counts and prints a result.
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

    /// Counts and prints the result of a check that is never skipped.
    pub fn add_result(&mut self, kind: &str, name: &str, result: Result<(), String>) {
        self.add(kind, name, result.map(|()| Verdict::Passed));
    }

    /// Returns `true` if no check failed.
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
