//! Under which name the tender was started, and what its callers expect of it under that name.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use super::{FAILED, TIMED_OUT, streams};
use crate::message;

/// Which program it is to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// `hvt-tender`: what was asked for goes to the standard output, and a command line that cannot be understood has a
    /// status of its own.
    HvtTender,
    /// `solo5-hvt`: to ask for help fails, and all of the tender's own words go to the standard error. Scripts and
    /// programs that start unikernels rely on it.
    Solo5Hvt,
}

impl Manner {
    /// That of the program started as `argv0`. Solo5 has a program of its own for debugging, which this one is as well;
    /// albatross looks for one with the ABI version in its name first, `solo5-hvt.2`.
    pub(super) fn of(argv0: Option<&OsStr>) -> Self {
        let name = argv0.and_then(|path| Path::new(path).file_name()).and_then(OsStr::to_str).unwrap_or_default();
        match name.strip_prefix(Self::Solo5Hvt.name()) {
            Some("" | "-debug") => Self::Solo5Hvt,
            Some(rest) if rest.strip_prefix('.') == Some(&hvt_abi::ABI_VERSION.to_string()) => Self::Solo5Hvt,
            _ => Self::HvtTender,
        }
    }

    /// What its messages begin with.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::HvtTender => "hvt-tender",
            Self::Solo5Hvt => "solo5-hvt",
        }
    }

    /// Status for a command line that cannot be understood.
    pub(super) fn misused(self) -> i32 {
        match self {
            Self::HvtTender => 2,
            Self::Solo5Hvt => FAILED,
        }
    }

    /// Says how it is used; returns the status to exit with.
    pub(super) fn help(self) -> i32 {
        let text = include_str!("help.txt").replace("{name}", self.name()).replace("{statuses}", &self.statuses());
        match (self.print(&text), self) {
            (0, Self::Solo5Hvt) => FAILED,
            (status, _) => status,
        }
    }

    /// Says which version it is; returns the status to exit with.
    pub(super) fn version(self) -> i32 {
        let (version, abi) = (env!("CARGO_PKG_VERSION"), hvt_abi::ABI_VERSION);
        self.print(&match self {
            Self::HvtTender => format!("hvt-tender {version}\nABI version {abi}\n"),
            Self::Solo5Hvt => format!("solo5-hvt tender, version {version} (hvt-tender)\nABI version {abi}\n"),
        })
    }

    /// Says on the standard error what went wrong, in one line.
    pub(super) fn report(self, error: &dyn Display) {
        message::line(&mut message::Stderr, self.name(), error);
    }

    fn statuses(self) -> String {
        match self {
            Self::HvtTender => {
                format!(
                    "{FAILED} when it could not be run or was stopped, {TIMED_OUT} after --timeout,\n{} for a wrong command line",
                    self.misused()
                )
            }
            Self::Solo5Hvt => format!("{FAILED} when it could not be run or was stopped, {TIMED_OUT} after --timeout"),
        }
    }

    /// Prints what the user asked to be told.
    fn print(self, text: &str) -> i32 {
        let written = match self {
            Self::HvtTender => streams::print(text),
            Self::Solo5Hvt => message::Stderr.write_all(text.as_bytes()),
        };
        if written.is_ok() { 0 } else { FAILED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_name_alone_decides() {
        for (argv0, manner) in [
            ("solo5-hvt", Manner::Solo5Hvt),
            ("/usr/bin/solo5-hvt", Manner::Solo5Hvt),
            ("./solo5-hvt", Manner::Solo5Hvt),
            ("/usr/bin/solo5-hvt-debug", Manner::Solo5Hvt),
            ("/var/lib/albatross/solo5-hvt.2", Manner::Solo5Hvt),
            ("hvt-tender", Manner::HvtTender),
            ("solo5-hvt/hvt-tender", Manner::HvtTender),
            ("solo5-hvt2", Manner::HvtTender),
            ("solo5-hvt.3", Manner::HvtTender),
            ("solo5-hvt.", Manner::HvtTender),
            ("", Manner::HvtTender),
        ] {
            assert_eq!(Manner::of(Some(argv0.as_ref())), manner, "{argv0}");
        }
        assert_eq!(Manner::of(None), Manner::HvtTender);
    }
}
