//! What a program says to its user: lines on the standard error that begin with its name.

use std::fmt::{self, Write as _};
use std::io::Write;

/// Writes one line at once. Control characters, which a file's name may hold, are shown, not sent to the terminal.
pub(crate) fn line(to: &mut dyn Write, program: &str, text: &dyn fmt::Display) {
    let mut line = String::new();
    // Neither writing to a `String` nor escaping fails.
    let _ = write!(Escaped(&mut line), "{program}: {text}");
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
        line(&mut written, "hvt-tender", &"a\nb\u{1b}[31mc\u{85}é");
        assert_eq!(String::from_utf8(written).unwrap(), "hvt-tender: a\\nb\\u{1b}[31mc\\u{85}é\n");
    }
}
