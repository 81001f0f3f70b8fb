//! Behaviour that depends on the name of the program, `argv[0]`.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use super::{FAILED, TIMED_OUT, streams};
use crate::message;

/// Program that the tender acts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Personality {
    /// `hvt-tender`: help and version go to the standard output, and an invalid command line has a
    /// separate exit status.
    HvtTender,
    /// `solo5-hvt`: `--help` fails, and every message of the tender goes to the standard error.
    /// Scripts and programs that start unikernels rely on both.
    Solo5Hvt,
}

impl Personality {
    /// Returns the personality of the program started as `argv0`.
    ///
    /// `solo5-hvt-debug`, Solo5's separate program for debugging, is accepted as well. Albatross
    /// first looks for a program with the ABI version in its name, `solo5-hvt.2`.
    pub(super) fn of(argv0: Option<&OsStr>) -> Self {
        let name = argv0.and_then(|path| Path::new(path).file_name()).and_then(OsStr::to_str).unwrap_or_default();
        match name.strip_prefix(Self::Solo5Hvt.name()) {
            Some("" | "-debug") => Self::Solo5Hvt,
            Some(rest) if rest.strip_prefix('.') == Some(&hvt_abi::ABI_VERSION.to_string()) => Self::Solo5Hvt,
            _ => Self::HvtTender,
        }
    }

    /// Returns the name of the program, which begins its messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::HvtTender => "hvt-tender",
            Self::Solo5Hvt => "solo5-hvt",
        }
    }

    /// Returns the exit status for an invalid command line.
    pub(super) fn misused(self) -> i32 {
        match self {
            Self::HvtTender => 2,
            Self::Solo5Hvt => FAILED,
        }
    }

    /// Prints the version. Returns the exit status.
    pub(super) fn version(self) -> i32 {
        let (version, abi) = (env!("CARGO_PKG_VERSION"), hvt_abi::ABI_VERSION);
        self.print(&match self {
            Self::HvtTender => format!("hvt-tender {version}\nABI version {abi}\n"),
            Self::Solo5Hvt => format!("solo5-hvt tender, version {version} (hvt-tender)\nABI version {abi}\n"),
        })
    }

    /// Prints an error as one line on the standard error.
    pub(super) fn report(self, error: &dyn Display) {
        message::line(&mut message::Stderr, self.name(), error);
    }

    /// Returns the description of the exit status.
    pub(super) fn statuses(self) -> String {
        let misused = match self {
            Self::HvtTender => format!(", {} for an invalid command line", self.misused()),
            Self::Solo5Hvt => String::new(),
        };
        format!(
            "The exit status is the unikernel's, {FAILED} if it cannot run or was stopped, {TIMED_OUT} after --timeout{misused}."
        )
    }

    /// Prints a text that the user requested. Returns the exit status.
    pub(super) fn print(self, text: &str) -> i32 {
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
        for (argv0, personality) in [
            ("solo5-hvt", Personality::Solo5Hvt),
            ("/usr/bin/solo5-hvt", Personality::Solo5Hvt),
            ("./solo5-hvt", Personality::Solo5Hvt),
            ("/usr/bin/solo5-hvt-debug", Personality::Solo5Hvt),
            ("/var/lib/albatross/solo5-hvt.2", Personality::Solo5Hvt),
            ("hvt-tender", Personality::HvtTender),
            ("solo5-hvt/hvt-tender", Personality::HvtTender),
            ("solo5-hvt2", Personality::HvtTender),
            ("solo5-hvt.3", Personality::HvtTender),
            ("solo5-hvt.", Personality::HvtTender),
            ("", Personality::HvtTender),
        ] {
            assert_eq!(Personality::of(Some(argv0.as_ref())), personality, "{argv0}");
        }
        assert_eq!(Personality::of(None), Personality::HvtTender);
    }
}
