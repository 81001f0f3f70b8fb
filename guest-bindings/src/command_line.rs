//! Command line options of the bindings.

use core::ffi::CStr;

/// Options that set the verbosity of the bindings, and whether each of them suppresses messages
/// other than errors. They stand at the start of the command line, each followed by white space or
/// the end of the line.
const LEVELS: [(&[u8], bool); 5] = [
    (b"--solo5:quiet", true),
    (b"--solo5:error", true),
    (b"--solo5:warn", true),
    (b"--solo5:info", false),
    (b"--solo5:debug", false),
];

/// The command line after removal of the bindings' options.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommandLine<'a> {
    /// Suppress all messages of the bindings except errors.
    pub(crate) quiet: bool,
    /// Remaining command line for the application, in any encoding.
    pub(crate) application: &'a CStr,
}

/// Removes the bindings' options from the start of the command line. If there are several, the last
/// one takes effect.
pub(crate) fn parse(line: &CStr) -> CommandLine<'_> {
    // The slice includes the NUL, which terminates the remaining command line.
    let mut rest = line.to_bytes_with_nul().trim_ascii_start();
    let mut quiet = false;
    while let Some((level, after)) = LEVELS.iter().find_map(|&(name, level)| {
        let after = rest.strip_prefix(name)?;
        after.first().is_some_and(|byte| *byte == 0 || byte.is_ascii_whitespace()).then_some((level, after))
    }) {
        quiet = level;
        rest = after.trim_ascii_start();
    }
    CommandLine { quiet, application: CStr::from_bytes_with_nul(rest).unwrap_or(c"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_at_the_front_are_taken() {
        assert_eq!(parse(c"  --solo5:quiet  a b "), CommandLine { quiet: true, application: c"a b " });
        assert_eq!(parse(c"--solo5:quiet --solo5:debug x"), CommandLine { quiet: false, application: c"x" });
        assert_eq!(parse(c"--solo5:error"), CommandLine { quiet: true, application: c"" });
        assert_eq!(parse(c"--solo5:quiet \xff"), CommandLine { quiet: true, application: c"\xff" });
        assert_eq!(parse(c""), CommandLine { quiet: false, application: c"" });
    }

    #[test]
    fn everything_else_is_the_applications() {
        for line in [c"a --solo5:quiet", c"--solo5:quietly", c"--solo5:", c"--solo5:quiet=1"] {
            assert_eq!(parse(line), CommandLine { quiet: false, application: line });
        }
    }
}
