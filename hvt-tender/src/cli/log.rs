//! Log messages of the tender: lines on the standard error that begin with the program's name.

use env_logger::Target;
use log::{Level, LevelFilter};

use crate::message;

/// Starts logging. The default level is warnings; `verbosity` and the environment variable
/// `RUST_LOG` raise it.
pub(super) fn init(program: &'static str, verbosity: u8) {
    let level = match verbosity {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level).parse_default_env().format(move |to, record| {
        let kind = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug | Level::Trace => "debug: ",
        };
        message::line(to, program, &format_args!("{kind}{}", record.args()));
        Ok(())
    });
    builder.target(Target::Pipe(Box::new(message::Stderr)));
    // Fails only if a logger is already set.
    let _ = builder.try_init();
}
