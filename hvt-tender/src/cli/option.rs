//! The options as a table. Parsing, `--help`, the man page, completions, the table in README.md and the errors for
//! options of another operating system are generated from its rows.
//!
//! The rows of a device are in its own module under [`devices`](super::devices).

use std::env::consts::OS;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use bitflags::bitflags;
use clap::ValueHint;

use super::devices::{block, net};
use super::value::{self, Expected};
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
    /// The system that this program is built for.
    pub(super) fn current() -> Self {
        if OS == "redox" { Self::REDOX } else { Self::LINUX }
    }

    /// Name of a single system.
    pub(super) fn name(self) -> &'static str {
        if self == Self::REDOX { "Redox" } else { "Linux" }
    }
}

/// Heading of `--help` that an option is listed under.
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

/// Argument of an option, and the effect of the option on a configuration.
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
    /// A value for a device, whose placeholder begins with `[NAME=]`: `--net=NAME=SOURCE`, `--net:NAME=SOURCE`.
    Device(&'static str, fn(&mut DeviceOptions, Named<&OsStr>) -> Result<(), Expected>),
    /// The name of a device: `--block-readonly=NAME`, `--block-readonly:NAME`.
    DeviceSwitch(fn(&mut DeviceOptions, Named<()>)),
}

/// One of the forms that the value of an option takes.
pub(super) struct Form {
    /// First characters, or all of them if nothing follows. Empty for the form that every other value has.
    prefix: &'static str,
    /// Placeholder of what follows, or an empty string.
    rest: &'static str,
    pub(super) help: &'static str,
    pub(super) systems: Systems,
}

impl Form {
    /// A form of one word.
    pub(super) const fn word(word: &'static str, help: &'static str) -> Self {
        Self::prefixed(word, "", help)
    }

    /// A form of a prefix and a value.
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

    /// The form as documentation shows it: `unix:PATH`.
    pub(super) fn pattern(&self) -> String {
        format!("{}{}", self.prefix, self.rest)
    }

    /// The word, if the form has no variable part.
    pub(super) fn as_word(&self) -> Option<&'static str> {
        self.rest.is_empty().then_some(self.prefix)
    }
}

/// An option.
pub(super) struct Row {
    /// Name behind the two dashes, and identifier.
    pub(super) long: &'static str,
    /// Letter behind a single dash.
    pub(super) short: Option<char>,
    pub(super) argument: Argument,
    pub(super) group: Group,
    /// Text for people, with code between backticks.
    pub(super) help: &'static str,
    /// Forms of the value, if there are several. The first that matches a value applies.
    pub(super) forms: &'static [Form],
    pub(super) systems: Systems,
    /// Completion of the value.
    pub(super) hint: ValueHint,
}

impl Row {
    /// A row without a letter and forms, for every system.
    pub(super) const fn new(group: Group, long: &'static str, argument: Argument, help: &'static str) -> Self {
        let (systems, hint) = (Systems::all(), ValueHint::Unknown);
        Self { long, short: None, argument, group, help, forms: &[], systems, hint }
    }

    const fn short(mut self, letter: char) -> Self {
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

    /// The row of this name.
    pub(super) fn by_long(long: &[u8]) -> Option<&'static Self> {
        rows().find(|row| row.long.as_bytes() == long)
    }

    /// The row of this letter.
    pub(super) fn by_short(letter: u8) -> Option<&'static Self> {
        rows().find(|row| row.short == Some(char::from(letter)))
    }

    /// Placeholder of the value: `[NAME=]SOURCE`.
    pub(super) fn placeholder(&self) -> Option<&'static str> {
        match self.argument {
            Argument::Help | Argument::Version | Argument::Switch(_) | Argument::Count(_) => None,
            Argument::Value(value, _) | Argument::Optional(value, _) | Argument::Device(value, _) => Some(value),
            Argument::DeviceSwitch(_) => Some("NAME"),
        }
    }

    /// The form of a value.
    pub(super) fn form_of(&self, value: &OsStr) -> Option<&'static Form> {
        self.forms.iter().find(|form| form.matches(value))
    }

    /// The systems on which the option, given this value, exists.
    pub(super) fn systems_for(&self, value: &OsStr) -> Systems {
        self.form_of(value).map_or(self.systems, |form| form.systems & self.systems)
    }
}

/// All rows, in the order of `--help`.
pub(super) fn rows() -> impl Iterator<Item = &'static Row> {
    [GUEST, net::OPTIONS, block::OPTIONS, OTHERS].into_iter().flatten()
}

static GUEST: &[Row] = &[
    Row::new(
        Group::Guest,
        "mem",
        Argument::Value("MB", |config, text| {
            config.memory = value::memory(text)?;
            Ok(())
        }),
        "Size of guest memory in MB, 2 to 4096 (default: 512)",
    ),
    Row::new(
        Group::Guest,
        "backend",
        Argument::Value("BACKEND", |config, text| {
            config.backend = value::backend(text)?;
            Ok(())
        }),
        "Backend that runs the guest (default: `auto`)",
    )
    .forms(&[
        Form::word("auto", "the first of `redox`, `kvm` and `process` that this machine has"),
        Form::word("kvm", "Linux's KVM, in `/dev/kvm`").on(Systems::LINUX),
        Form::word("process", "a sandboxed process").on(Systems::LINUX),
        Form::word("redox", "the hypervisor of the Redox kernel"),
    ]),
    Row::new(
        Group::Guest,
        "timeout",
        Argument::Value("TIME", |config, text| {
            config.timeout = Some(value::duration(text)?);
            Ok(())
        }),
        "Stop the guest after TIME, with status 124: `30` (seconds), `500ms`, `10s`, `5m`, `1h`",
    )
    .on(Systems::LINUX),
    Row::new(
        Group::Guest,
        "virtual-time",
        Argument::Switch(|config| config.virtual_time = true),
        "Advance the clock only while the guest sleeps: a sleep takes no time, two runs are identical, and a guest that nothing can wake ends",
    )
    .on(Systems::LINUX),
];

static OTHERS: &[Row] = &[
    Row::new(
        Group::Debugging,
        "gdb",
        Argument::Optional("PATH", |config, path| {
            config.gdb = true;
            config.gdb_socket = path.map(value::file).transpose()?;
            Ok(())
        }),
        "Wait for a debugger before the first instruction, at a TCP port of 127.0.0.1 or at a Unix socket that only this \
         user can connect to",
    )
    .on(Systems::LINUX)
    .hint(ValueHint::FilePath),
    Row::new(
        Group::Debugging,
        "gdb-port",
        Argument::Value("PORT", |config, text| {
            config.gdb_port = value::port(text)?;
            Ok(())
        }),
        "TCP port for the debugger, 0 for a free one (default: 1234)",
    )
    .on(Systems::LINUX),
    Row::new(
        Group::Debugging,
        "dumpcore",
        Argument::Value("DIR", |config, text| {
            config.core_directory = Some(value::directory(text)?);
            Ok(())
        }),
        "Write `DIR/core.solo5-hvt.PID` if the guest crashes, for `gdb GUEST CORE`",
    )
    .on(Systems::LINUX)
    .hint(ValueHint::DirPath),
    Row::new(
        Group::Debugging,
        "trace",
        Argument::Value("FILE", |config, text| {
            config.trace = Some(value::file(text)?);
            Ok(())
        }),
        "Write one line of JSON per hypercall to FILE",
    )
    .on(Systems::LINUX)
    .hint(ValueHint::FilePath),
    Row::new(
        Group::Isolation,
        "user",
        Argument::Value("UID:GID", |config, text| {
            config.identity.user = Some(value::user(text)?);
            Ok(())
        }),
        "Change to this user and group once all files are open",
    )
    .on(Systems::LINUX),
    Row::new(
        Group::Isolation,
        "chroot",
        Argument::Value("DIR", |config, text| {
            config.identity.root = Some(value::directory(text)?);
            Ok(())
        }),
        "Change the root directory to DIR once all files are open",
    )
    .on(Systems::LINUX)
    .hint(ValueHint::DirPath),
    Row::new(
        Group::Isolation,
        "no-sandbox",
        Argument::Switch(|config| config.sandbox = false),
        "Leave the tender unconfined while the guest runs",
    )
    .on(Systems::LINUX),
    Row::new(
        Group::Other,
        "verbose",
        Argument::Count(|config, times| config.verbosity = times),
        "Log what the tender does; twice: in detail",
    )
    .short('v'),
    Row::new(Group::Other, "help", Argument::Help, "Print this help").short('h'),
    Row::new(Group::Other, "version", Argument::Version, "Print the version of the tender and of the ABI").short('V'),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_letters_are_unique() {
        for (index, row) in rows().enumerate() {
            for other in rows().skip(index + 1) {
                assert_ne!(row.long, other.long);
                assert!(row.short.is_none() || row.short != other.short, "{} {}", row.long, other.long);
            }
        }
    }

    /// clap lists options by heading, README.md in the order of the table: the orders agree.
    #[test]
    fn the_rows_of_a_group_are_neighbours() {
        let mut groups: Vec<Group> = rows().map(|row| row.group).collect();
        groups.dedup();
        let distinct: Vec<Group> =
            groups.iter().copied().filter(|group| groups.iter().filter(|other| *other == group).count() == 1).collect();
        assert_eq!(groups, distinct);
    }
}
