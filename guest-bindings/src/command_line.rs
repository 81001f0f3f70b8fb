//! What the guest's bindings take from the command line for themselves.

/// Options at the start of the command line, each followed by white space or nothing, that set how much the bindings
/// say, and whether that silences what is not an error.
const LEVELS: [(&str, bool); 5] = [
    ("--solo5:quiet", true),
    ("--solo5:error", true),
    ("--solo5:warn", true),
    ("--solo5:info", false),
    ("--solo5:debug", false),
];

/// A command line without the bindings' own options.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommandLine<'a> {
    /// The bindings say nothing unless they fail.
    pub(crate) quiet: bool,
    /// What remains for the application.
    pub(crate) application: &'a str,
}

/// Takes the bindings' options off the front; of several the last one counts.
pub(crate) fn parse(line: &str) -> CommandLine<'_> {
    let mut rest = line.trim_ascii_start();
    let mut quiet = false;
    while let Some((level, after)) = LEVELS.iter().find_map(|&(name, level)| {
        let after = rest.strip_prefix(name)?;
        (after.is_empty() || after.starts_with(|c: char| c.is_ascii_whitespace())).then_some((level, after))
    }) {
        quiet = level;
        rest = after.trim_ascii_start();
    }
    CommandLine { quiet, application: rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_at_the_front_are_taken() {
        assert_eq!(parse("  --solo5:quiet  a b "), CommandLine { quiet: true, application: "a b " });
        assert_eq!(parse("--solo5:quiet --solo5:debug x"), CommandLine { quiet: false, application: "x" });
        assert_eq!(parse("--solo5:error"), CommandLine { quiet: true, application: "" });
        assert_eq!(parse(""), CommandLine { quiet: false, application: "" });
    }

    #[test]
    fn everything_else_is_the_applications() {
        for line in ["a --solo5:quiet", "--solo5:quietly", "--solo5:", "--solo5:quiet=1"] {
            assert_eq!(parse(line), CommandLine { quiet: false, application: line });
        }
    }
}
