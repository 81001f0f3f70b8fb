//! Start of the program on every operating system: parses the command line, and prints or runs the
//! result.

use std::ffi::OsString;

use super::command::print_help;
use super::personality::Personality;
use super::{Command, FAILED, log, parse, signals, streams};
use crate::config::Config;

/// Prints the help, the version or a usage error, or else calls `run`. Returns the exit status. The
/// first of `args` is the name of the program (`argv[0]`).
pub(super) fn start(args: impl IntoIterator<Item = OsString>, run: impl FnOnce(Config, Personality) -> i32) -> i32 {
    if streams::open_missing().is_err() {
        // The standard error may be closed as well, so nothing is printed.
        return FAILED;
    }
    signals::survive_writes();
    let caught = signals::catch();
    let mut args = args.into_iter();
    let personality = Personality::of(args.next().as_deref());
    let config = match parse(args) {
        Ok(Command::Run(config)) => *config,
        Ok(Command::Help) => return print_help(personality),
        Ok(Command::Version) => return personality.version(),
        Err(error) => {
            personality.report(&format_args!("{error}; see {} --help", personality.name()));
            return personality.misused();
        }
    };
    log::init(personality.name(), config.verbosity);
    if let Err(error) = caught {
        personality.report(&format_args!("cannot handle signals: {error}"));
        return FAILED;
    }
    run(config, personality)
}
