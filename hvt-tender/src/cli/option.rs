//! Option of the command line: a row of the [table](super::table).

use std::env::consts::OS;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use bitflags::bitflags;
use clap::ValueHint;

use super::value::Expected;
use crate::config::{Config, DeviceOptions, Named};

bitflags! {
    /// Operating systems.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Systems: u8 {
        /// Linux.
        const LINUX = 1;
        /// Redox.
        const REDOX = 1 << 1;
    }
}

impl Systems {
    /// Returns the operating system of this build.
    pub(super) fn current() -> Self {
        if OS == "redox" { Self::REDOX } else { Self::LINUX }
    }

    /// Returns the name of a single system.
    pub(super) fn name(self) -> &'static str {
        if self == Self::REDOX { "Redox" } else { "Linux" }
    }
}

/// Heading of an option in `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Guest,
    Net,
    Block,
    Debugging,
    Isolation,
    Other,
}

impl Group {
    pub(super) fn heading(self) -> &'static str {
        match self {
            Self::Guest => "Guest",
            Self::Net => "Network devices",
            Self::Block => "Block devices",
            Self::Debugging => "Debugging",
            Self::Isolation => "Isolation",
            Self::Other => "Other",
        }
    }
}

/// Argument of an option, and its effect on the configuration.
#[derive(Clone, Copy)]
pub(super) enum Argument {
    /// `--help`.
    Help,
    /// `--version`.
    Version,
    /// No argument: `--no-sandbox`.
    Switch(fn(&mut Config)),
    /// No argument, and more effect if repeated: `-vv`.
    Count(fn(&mut Config, u8)),
    /// A value: `--mem=MB`.
    Value(&'static str, fn(&mut Config, &OsStr) -> Result<(), Expected>),
    /// A value, or none: `--gdb`, `--gdb=PATH`.
    Optional(&'static str, fn(&mut Config, Option<&OsStr>) -> Result<(), Expected>),
    /// A value for a device: `--net=NAME=SOURCE`, `--net:NAME=SOURCE`. The placeholder begins with
    /// `[NAME=]`.
    Device(&'static str, fn(&mut DeviceOptions, Named<&OsStr>) -> Result<(), Expected>),
    /// The name of a device: `--block-readonly=NAME`, `--block-readonly:NAME`.
    DeviceSwitch(fn(&mut DeviceOptions, Named<()>)),
}

/// Form of an option's value.
pub(super) struct Form {
    /// First characters of the value, or the whole value if `rest` is empty. Empty for the form
    /// that matches every value.
    prefix: &'static str,
    /// Placeholder after the prefix, or an empty string.
    rest: &'static str,
    pub(super) help: &'static str,
    pub(super) systems: Systems,
}

impl Form {
    /// Creates a form of one word.
    pub(super) const fn word(word: &'static str, help: &'static str) -> Self {
        Self::prefixed(word, "", help)
    }

    /// Creates a form of a prefix and a value.
    pub(super) const fn prefixed(prefix: &'static str, rest: &'static str, help: &'static str) -> Self {
        Self { prefix, rest, help, systems: Systems::all() }
    }

    /// Restricts the form to some systems.
    pub(super) const fn on(mut self, systems: Systems) -> Self {
        self.systems = systems;
        self
    }

    fn matches(&self, value: &OsStr) -> bool {
        let (value, prefix) = (value.as_bytes(), self.prefix.as_bytes());
        if self.rest.is_empty() { value == prefix } else { value.starts_with(prefix) }
    }

    /// Returns the form as documentation shows it: `unix:PATH`.
    pub(super) fn pattern(&self) -> String {
        format!("{}{}", self.prefix, self.rest)
    }

    /// Returns the word, if the form has no variable part.
    pub(super) fn as_word(&self) -> Option<&'static str> {
        self.rest.is_empty().then_some(self.prefix)
    }
}

/// Option of the command line.
pub(super) struct Row {
    /// Name after the two dashes. Identifies the option.
    pub(super) long: &'static str,
    /// Letter after a single dash.
    pub(super) short: Option<char>,
    pub(super) argument: Argument,
    pub(super) group: Group,
    /// Help text, with code between backticks.
    pub(super) help: &'static str,
    /// Forms of the value, if there are several. The first form that matches a value applies.
    pub(super) forms: &'static [Form],
    pub(super) systems: Systems,
    /// Hint for shell completions of the value.
    pub(super) hint: ValueHint,
}

impl Row {
    /// Creates a row without a letter and forms, for every operating system.
    pub(super) const fn new(group: Group, long: &'static str, argument: Argument, help: &'static str) -> Self {
        let (systems, hint) = (Systems::all(), ValueHint::Unknown);
        Self { long, short: None, argument, group, help, forms: &[], systems, hint }
    }

    /// Sets the letter of the option.
    pub(super) const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    /// Restricts the option to some systems.
    pub(super) const fn on(mut self, systems: Systems) -> Self {
        self.systems = systems;
        self
    }

    pub(super) const fn forms(mut self, forms: &'static [Form]) -> Self {
        self.forms = forms;
        self
    }

    pub(super) const fn hint(mut self, hint: ValueHint) -> Self {
        self.hint = hint;
        self
    }

    /// Returns the placeholder of the value: `[NAME=]SOURCE`.
    pub(super) fn placeholder(&self) -> Option<&'static str> {
        match self.argument {
            Argument::Help | Argument::Version | Argument::Switch(_) | Argument::Count(_) => None,
            Argument::Value(value, _) | Argument::Optional(value, _) | Argument::Device(value, _) => Some(value),
            Argument::DeviceSwitch(_) => Some("NAME"),
        }
    }

    /// Returns the form that matches a value.
    pub(super) fn form_of(&self, value: &OsStr) -> Option<&'static Form> {
        self.forms.iter().find(|form| form.matches(value))
    }

    /// Returns the operating systems that support the option with this value.
    pub(super) fn systems_for(&self, value: &OsStr) -> Systems {
        self.form_of(value).map_or(self.systems, |form| form.systems & self.systems)
    }
}
