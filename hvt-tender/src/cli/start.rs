//! From the words of a command line to what it asks for, on every operating system.

use std::ffi::OsString;

use super::command::print_help;
use super::personality::Personality;
use super::{Command, FAILED, log, parse, signals, streams};
use crate::config::Config;

/// Answers a command line: with help, the version or what is wrong with it, or else by `run`; returns the status to exit
/// with. The first of `args` is the name under which the program was started.
pub(super) fn start(args: impl IntoIterator<Item = OsString>, run: impl FnOnce(Config, Personality) -> i32) -> i32 {
    if streams::open_missing().is_err() {
        // There may be nobody to tell.
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
