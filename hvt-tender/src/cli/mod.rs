//! The command line: what a user types becomes a run, and what went wrong becomes one line and a status.

mod args;
mod devices;
mod log;
mod signals;
mod streams;
mod value;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use self::devices::{Descriptors, Plan};
use crate::backend::Stop;
use crate::config::Config;
use crate::guest::Limit;
use crate::monitor::{Failure, Outcome};
use crate::unikernel::{self, Unikernel};

pub use args::{Command, UsageError, parse};

/// Status for everything but a guest's own end: Solo5's tenders use it too, and what restarts guests relies on it.
const FAILED: i32 = 1;

/// Status for a command line that cannot be understood.
const MISUSED: i32 = 2;

const HELP: &str = include_str!("help.txt");

/// Does what the command line says; returns the status to exit with.
///
/// Of what is printed the guest's output goes to the standard output, everything else to the standard error.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> i32 {
    if streams::open_missing().is_err() {
        // There may be nobody to tell.
        return FAILED;
    }
    let config = match parse(args) {
        Ok(Command::Run(config)) => *config,
        Ok(Command::Help) => return print(HELP),
        Ok(Command::Version) => {
            let version = env!("CARGO_PKG_VERSION");
            return print(&format!("hvt-tender {version}\nABI version {}\n", hvt_abi::ABI_VERSION));
        }
        Err(error) => {
            report(&format_args!("{error}; see hvt-tender --help"));
            return MISUSED;
        }
    };
    log::init(config.verbosity);
    run(config).unwrap_or_else(|error| {
        report(&error);
        FAILED
    })
}

/// Runs a unikernel; returns its exit status.
fn run(config: Config) -> Result<i32, Error> {
    // First of all, before this program opens anything under the numbers that the user means.
    let descriptors = Descriptors::claim(&config.devices.nets)?;
    let stop = Stop::new().map_err(unikernel::Error::Stop)?;
    signals::stop_on_signals(&stop).map_err(Error::Signals)?;
    match prepare(config, descriptors)?.stop(stop).run()? {
        Outcome::Exited { status, .. } => Ok(status),
        Outcome::Failed(failure) => Err(Error::Guest(Box::new(failure))),
        Outcome::Interrupted => Err(Error::Stopped(signals::received())),
        Outcome::Exceeded(limit) => Err(Error::Limit(limit)),
    }
}

/// The unikernel with everything that the user gives it.
fn prepare(config: Config, mut descriptors: Descriptors) -> Result<Unikernel, Error> {
    let unikernel = Unikernel::load(&config.kernel)?;
    let plan = Plan::new(&config.devices, unikernel.manifest())?;
    let mut unikernel = plan.attach(unikernel, &mut descriptors)?;
    if let Some(path) = config.trace {
        let file = File::create(&path).map_err(|source| Error::Trace { path, source })?;
        unikernel = unikernel.trace(BufWriter::new(file));
    }
    Ok(unikernel.mem(config.memory).args(config.arguments.into_iter().map(OsString::into_vec)).backend(config.backend))
}

/// Why there is no exit status of a guest. The message is one line.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Devices(#[from] devices::Error),
    #[error("{}: cannot be written: {source}", path.display())]
    Trace { path: PathBuf, source: io::Error },
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    #[error(transparent)]
    Unikernel(#[from] unikernel::Error),
    #[error("{0}")]
    Guest(Box<Failure>),
    #[error("{0}")]
    Limit(Limit),
    #[error("stopped by {}", _0.unwrap_or("request"))]
    Stopped(Option<&'static str>),
}

/// Prints on the standard output what the user asked to be told.
fn print(text: &str) -> i32 {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => 0,
        Err(_) => FAILED,
    }
}

/// Says on the standard error what went wrong, in one line.
fn report(error: &dyn fmt::Display) {
    log::line(&mut io::stderr(), "", error);
}

#[cfg(test)]
mod tests;
