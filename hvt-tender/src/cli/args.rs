//! Parses the command line into a [`Config`].
//!
//! An option of a device has three equivalent forms: `--net NAME=tap0`, `--net=NAME=tap0` and
//! Solo5's `--net:NAME=tap0`. Without a name the option applies to the only device of its kind. A
//! value of the form `NAME=VALUE` is always split at the equals sign; write a path of that form as
//! `./a=b`. The words `none` and `user` name networks: a tap interface called `none` or `user` must
//! be passed as a descriptor, `@N`.
//!
//! [`Words`] rewrites all three forms to the second one and ends the options at the unikernel. Then
//! clap parses the words, and [`apply`] reads the values.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::ArgMatches;
use clap::error::ErrorKind;

use super::command::parser;
use super::option::{Argument, Row, Systems};
use super::table;
use super::value::{self, Expected};
use crate::config::{Config, Named};
use crate::image::is_device_name;
use crate::usage;

/// Request of a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run a unikernel.
    Run(Box<Config>),
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// Command line that cannot be parsed. The message is one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

/// Parses the arguments after the program's name.
///
/// # Errors
/// Returns [`UsageError`] if an option is unknown, lacks its value, has an invalid value or is not
/// available on this operating system, or if no unikernel is given.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    parse_on(Systems::current(), args)
}

fn parse_on(system: Systems, args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut line = Words::rewrite(args);
    if line.unknown {
        // Clap suggests a similar option, so it needs every option of this system.
        line.rows.extend(table::rows().filter(|row| row.systems.contains(system)));
        line.rows.sort_by_key(|row| row.long);
        line.rows.dedup_by_key(|row| row.long);
    }
    line.parse(system)
}

/// Words of a command line, rewritten for clap.
#[derive(Default)]
struct Words {
    /// Every option in one word.
    words: Vec<OsString>,
    /// The options, in the order of their first appearance.
    rows: Vec<&'static Row>,
    /// Set if the last word is an unknown option. The words after it are dropped.
    unknown: bool,
    /// Error in the word after the last one.
    problem: Option<UsageError>,
    /// The unikernel's file.
    kernel: Option<OsString>,
    /// Words after the unikernel's file. They are passed to the guest unchanged.
    arguments: Vec<OsString>,
}

impl Words {
    fn rewrite(args: impl IntoIterator<Item = OsString>) -> Self {
        let mut line = Self::default();
        let mut args = args.into_iter();
        while let Some(word) = args.next() {
            let rewritten = match word.as_bytes() {
                b"--" => {
                    line.kernel = args.next();
                    line.arguments = args.collect();
                    break;
                }
                [b'-', b'-', option @ ..] => line.long(option, &mut args),
                [b'-', letters @ ..] if !letters.is_empty() => Ok(line.short(letters)),
                _ => {
                    line.kernel = Some(word);
                    line.arguments = args.collect();
                    break;
                }
            };
            match rewritten {
                Ok(rewritten) => line.words.push(rewritten.unwrap_or(word)),
                Err(problem) => line.problem = Some(problem),
            }
            if line.unknown || line.problem.is_some() {
                break;
            }
        }
        line
    }

    /// Rewrites the word `--option`, taking its value from `args` if needed. Returns `None` if the
    /// word stays unchanged.
    fn long(
        &mut self,
        option: &[u8],
        args: &mut impl Iterator<Item = OsString>,
    ) -> Result<Option<OsString>, UsageError> {
        let (name, value) = split(option, b'=');
        let (long, device) = split(name, b':');
        let row = table::by_long(long);
        let of_device = matches!(row, Some(Row { argument: Argument::Device(..) | Argument::DeviceSwitch(_), .. }));
        let Some(row) = row.filter(|_| device.is_none() || of_device) else {
            self.unknown = true;
            return Ok(None);
        };
        self.uses(row);
        let flag = || format!("--{}", OsStr::from_bytes(name).display());
        if let Some(device) = device.filter(|device| !is_device_name(device)) {
            let device = OsStr::from_bytes(device).display();
            return Err(UsageError(format!("{}: invalid device name '{device}': expected {}", flag(), value::NAME)));
        }
        let mut word = OsString::from("--");
        word.push(row.long);
        match (row.argument, device, value) {
            (Argument::DeviceSwitch(_), Some(_), Some(value)) => {
                let value = OsStr::from_bytes(value).display();
                return Err(UsageError(format!("{}: unexpected value '{value}'", flag())));
            }
            (Argument::DeviceSwitch(_), Some(name), None) => push_value(&mut word, name),
            (Argument::Value(..) | Argument::Device(..), device, value) => {
                let next = if value.is_none() { args.next() } else { None };
                // Clap reports a missing value.
                let Some(value) = value.or(next.as_deref().map(OsStr::as_bytes)) else { return Ok(Some(word)) };
                if let Some(name) = device {
                    push_value(&mut word, name);
                }
                push_value(&mut word, value);
            }
            (_, _, _) => return Ok(None),
        }
        Ok(Some(word))
    }

    /// Records the options in the word `-letters`. The word itself stays unchanged.
    fn short(&mut self, letters: &[u8]) -> Option<OsString> {
        for letter in letters {
            match table::by_short(*letter) {
                Some(row) => self.uses(row),
                None => self.unknown = true,
            }
        }
        None
    }

    /// Parses the words against the options in `rows`, and reads the values.
    fn parse(self, system: Systems) -> Result<Command, UsageError> {
        let matches = match parser(self.rows.iter().copied()).try_get_matches_from(self.words) {
            Ok(matches) => matches,
            Err(error) if error.kind() == ErrorKind::DisplayHelp => return Ok(Command::Help),
            Err(error) if error.kind() == ErrorKind::DisplayVersion => return Ok(Command::Version),
            Err(error) => return Err(UsageError(usage::problem(&error))),
        };
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let mut config = Config::new("");
        for row in self.rows {
            apply(row, &matches, system, &mut config)?;
        }
        match self.kernel {
            None => return Err(UsageError("no unikernel given: KERNEL is missing".into())),
            Some(kernel) if kernel.is_empty() => return Err(UsageError("no unikernel given: KERNEL is ''".into())),
            Some(kernel) => config.kernel = kernel.into(),
        }
        config.arguments = self.arguments;
        Ok(Command::Run(Box::new(config)))
    }

    fn uses(&mut self, row: &'static Row) {
        if !self.rows.iter().any(|known| std::ptr::eq(*known, row)) {
            self.rows.push(row);
        }
    }
}

/// Splits a word at the first `separator`.
fn split(word: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match word.iter().position(|byte| *byte == separator) {
        Some(at) => (&word[..at], Some(&word[at + 1..])),
        None => (word, None),
    }
}

fn push_value(word: &mut OsString, value: &[u8]) {
    word.push("=");
    word.push(OsStr::from_bytes(value));
}

/// Reads the values of an option.
fn apply(row: &Row, matches: &ArgMatches, system: Systems, config: &mut Config) -> Result<(), UsageError> {
    if !row.systems.contains(system) {
        return Err(UsageError(format!("--{}: not available on {}", row.long, system.name())));
    }
    let values = || matches.get_occurrences::<OsString>(row.long).into_iter().flatten().map(|mut values| values.next());
    match row.argument {
        Argument::Help | Argument::Version => {}
        Argument::Switch(set) => {
            if matches.get_flag(row.long) {
                set(config);
            }
        }
        Argument::Count(set) => set(config, matches.get_count(row.long)),
        Argument::Value(_, set) => {
            for text in values().flatten() {
                available(row, text, system)?;
                set(config, text).map_err(|expected| invalid(row, None, text, expected))?;
            }
        }
        Argument::Optional(_, set) => {
            for text in values() {
                let text = text.map(OsString::as_os_str);
                set(config, text).map_err(|expected| invalid(row, None, text.unwrap_or_default(), expected))?;
            }
        }
        Argument::Device(_, set) => {
            for text in values().flatten() {
                let (name, value) = value::split_name(text);
                available(row, value, system)?;
                let named = Named { name: name.map(str::to_owned), value };
                set(&mut config.devices, named).map_err(|expected| invalid(row, name, value, expected))?;
            }
        }
        Argument::DeviceSwitch(set) => {
            for text in values() {
                let name = text.map(|text| value::name(text).map_err(|expected| invalid(row, None, text, expected)));
                set(&mut config.devices, Named { name: name.transpose()?, value: () });
            }
        }
    }
    Ok(())
}

fn available(row: &Row, value: &OsStr, system: Systems) -> Result<(), UsageError> {
    if row.systems_for(value).contains(system) {
        return Ok(());
    }
    Err(UsageError(format!("--{}: '{}' is not available on {}", row.long, value.display(), system.name())))
}

fn invalid(row: &Row, device: Option<&str>, value: &OsStr, expected: Expected) -> UsageError {
    let device = device.map(|name| format!(":{name}")).unwrap_or_default();
    UsageError(format!("--{}{device}: invalid value '{}': expected {expected}", row.long, value.display()))
}

#[cfg(test)]
mod tests;
