//! The tender's own words: lines on the standard error that begin with its name.

use std::fmt::{self, Write as _};
use std::io::Write;

use log::{Level, LevelFilter};

/// Begins to log: warnings, and more of it by `verbosity` or by the environment variable `RUST_LOG`.
pub(super) fn init(verbosity: u8) {
    let level = match verbosity {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level).parse_default_env().format(|to, record| {
        let kind = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug | Level::Trace => "debug: ",
        };
        line(to, kind, record.args());
        Ok(())
    });
    // Fails only where somebody has done it before.
    let _ = builder.try_init();
}

/// Writes one line at once. Control characters, which a file's name may hold, are shown, not sent to the terminal.
pub(super) fn line(to: &mut dyn Write, kind: &str, text: &dyn fmt::Display) {
    let mut line = String::from("hvt-tender: ");
    line.push_str(kind);
    // Neither writing to a `String` nor escaping fails.
    let _ = write!(Escaped(&mut line), "{text}");
    line.push('\n');
    // There is nobody left to tell.
    let _ = to.write_all(line.as_bytes());
}

/// Text with its control characters escaped.
struct Escaped<'s>(&'s mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                control if control.is_control() => self.0.extend(control.escape_default()),
                plain => self.0.push(plain),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        let mut written = Vec::new();
        line(&mut written, "warning: ", &"a\nb\u{1b}[31mc\u{85}é");
        assert_eq!(String::from_utf8(written).unwrap(), "hvt-tender: warning: a\\nb\\u{1b}[31mc\\u{85}é\n");
    }
}
