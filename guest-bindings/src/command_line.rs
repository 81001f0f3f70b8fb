//! What the guest's bindings take from the command line for themselves.

use core::ffi::CStr;

/// Options at the start of the command line, each followed by white space or nothing, that set how much the bindings
/// say, and whether that silences what is not an error.
const LEVELS: [(&[u8], bool); 5] = [
    (b"--solo5:quiet", true),
    (b"--solo5:error", true),
    (b"--solo5:warn", true),
    (b"--solo5:info", false),
    (b"--solo5:debug", false),
];

/// A command line without the bindings' own options.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommandLine<'a> {
    /// The bindings say nothing unless they fail.
    pub(crate) quiet: bool,
    /// What remains for the application, in whatever encoding.
    pub(crate) application: &'a CStr,
}

/// Takes the bindings' options off the front; of several the last one counts.
pub(crate) fn parse(line: &CStr) -> CommandLine<'_> {
    // The NUL comes along, as the end of what remains.
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
