//! The command line becomes a [`Config`].
//!
//! An option about one of several devices has three forms that mean the same: `--net NAME=tap0`, `--net=NAME=tap0`
//! and Solo5's `--net:NAME=tap0`. Without a name it is about the only device of its kind. What looks like a name and an
//! equals sign is one: a path of that look is written `./a=b`. So do the words `none` and `user` mean networks: a tap of
//! such a name goes in as a descriptor, `@N`.

use std::ffi::{OsStr, OsString};

use lexopt::{Arg, Parser};

use super::value;
use crate::config::{BlockSource, Config, Named};
use crate::image::is_device_name;

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// To run a unikernel.
    Run(Box<Config>),
    /// To say how it is used.
    Help,
    /// To say which version it is.
    Version,
}

/// A command line that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> Self {
        Self(error.to_string())
    }
}

/// Understands the arguments behind the program's name.
///
/// # Errors
/// [`UsageError`].
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut parser = Parser::from_args(args.into_iter().collect::<Vec<_>>());
    let mut config = Config::new("");
    loop {
        let option = match parser.next()? {
            None => return Err(UsageError("no unikernel to run is named".into())),
            Some(Arg::Value(kernel)) if kernel.is_empty() => {
                return Err(UsageError("no unikernel to run is named: its file is ''".into()));
            }
            Some(Arg::Value(kernel)) => {
                config.kernel = kernel.into();
                // Whatever follows is the guest's, `--` included.
                config.arguments = parser.raw_args()?.collect();
                return Ok(Command::Run(Box::new(config)));
            }
            Some(Arg::Short('h')) => Flag::new("help"),
            Some(Arg::Short('V')) => Flag::new("version"),
            Some(Arg::Short('v')) => Flag::new("verbose"),
            Some(unknown @ Arg::Short(_)) => return Err(unknown.unexpected().into()),
            Some(Arg::Long(text)) => Flag::new(text),
        };
        match (option.word(), option.name()?) {
            ("help", None) => return Ok(Command::Help),
            ("version", None) => return Ok(Command::Version),
            (_, name) => option.apply(name, &mut parser, &mut config)?,
        }
    }
}

/// An option as it was written: `net`, or `net:NAME`.
struct Flag {
    text: String,
}

impl Flag {
    fn new(text: &str) -> Self {
        Self { text: text.into() }
    }

    /// What stands before the colon.
    fn word(&self) -> &str {
        self.text.split(':').next().unwrap_or_default()
    }

    /// What stands behind the colon, if there is one.
    fn name(&self) -> Result<Option<&str>, UsageError> {
        match self.text.split_once(':') {
            Some((_, name)) if !is_device_name(name.as_bytes()) => Err(UsageError(format!(
                "--{}: '{name}' cannot be the name of a device: those are 1 to {} letters and digits",
                self.text,
                hvt_abi::manifest::NAME_MAX
            ))),
            Some((_, name)) => Ok(Some(name)),
            None => Ok(None),
        }
    }

    fn apply(&self, name: Option<&str>, parser: &mut Parser, config: &mut Config) -> Result<(), UsageError> {
        let devices = &mut config.devices;
        match (self.word(), name) {
            ("mem", None) => config.memory = self.value(&parser.value()?, value::memory)?,
            ("backend", None) => config.backend = self.value(&parser.value()?, value::backend)?,
            ("dumpcore", None) => config.core_directory = Some(self.value(&parser.value()?, value::directory)?),
            ("user", None) => config.identity.user = Some(self.value(&parser.value()?, value::user)?),
            ("chroot", None) => config.identity.root = Some(self.value(&parser.value()?, value::directory)?),
            ("no-sandbox", None) => config.sandbox = false,
            ("trace", None) => config.trace = Some(self.value(&parser.value()?, value::path)?),
            ("timeout", None) => config.timeout = Some(self.value(&parser.value()?, value::duration)?),
            ("virtual-time", None) => config.virtual_time = true,
            ("gdb", None) => {
                config.gdb = true;
                let path = parser.optional_value();
                config.gdb_socket = path.map(|path| self.value(&path, value::recording)).transpose()?;
            }
            ("gdb-port", None) => config.gdb_port = self.value(&parser.value()?, value::port)?,
            ("verbose", None) => config.verbosity = config.verbosity.saturating_add(1),
            ("net", _) => devices.nets.push(self.named(name, &parser.value()?, value::net_source)?),
            ("forward", _) => devices.forwards.push(self.named(name, &parser.value()?, value::forward)?),
            ("host-loopback", _) => {
                devices.loopbacks.push(self.named(name, &parser.value()?, value::host_loopback)?);
            }
            ("net-allow", _) => devices.opened.push(self.named(name, &parser.value()?, value::address)?),
            ("net-pcap", _) => devices.recordings.push(self.named(name, &parser.value()?, value::recording)?),
            ("net-ring", None) => config.net_ring = self.value(&parser.value()?, value::net_ring)?,
            ("net-mac", _) => devices.macs.push(self.named(name, &parser.value()?, value::mac)?),
            ("block", _) => {
                let path = self.named(name, &parser.value()?, value::path)?;
                devices.blocks.push(path.map(BlockSource::File));
            }
            ("disk-cow", _) => {
                let path = self.named(name, &parser.value()?, value::path)?;
                devices.blocks.push(path.map(BlockSource::Copy));
            }
            ("block-sector-size", _) => {
                devices.block_sizes.push(self.named(name, &parser.value()?, value::block_size)?);
            }
            ("block-readonly", _) => devices.read_only.push(self.switch(name, parser)?),
            ("block-direct", _) => devices.direct.push(self.switch(name, parser)?),
            _ => return Err(Arg::Long(&self.text).unexpected().into()),
        }
        Ok(())
    }

    /// Says something about a device that takes no more words: the device's name, if any, is the value.
    fn switch(&self, name: Option<&str>, parser: &mut Parser) -> Result<Named<()>, UsageError> {
        let name = match name {
            Some(name) => Some(name.to_owned()),
            None => parser.optional_value().map(|name| self.value(&name, value::name)).transpose()?,
        };
        Ok(Named { name, value: () })
    }

    /// Reads a value, with the device's name before it unless that stands behind a colon.
    fn named<T>(&self, name: Option<&str>, text: &OsStr, read: value::Read<T>) -> Result<Named<T>, UsageError> {
        let (name, text) = match name {
            Some(name) => (Some(name), text),
            None => value::split_name(text),
        };
        Ok(Named { name: name.map(str::to_owned), value: self.value(text, read)? })
    }

    fn value<T>(&self, text: &OsStr, read: value::Read<T>) -> Result<T, UsageError> {
        read(text).map_err(|expected| UsageError(format!("--{}: '{}' is not {expected}", self.text, text.display())))
    }
}

#[cfg(test)]
mod tests;
