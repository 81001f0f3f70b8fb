//! Environment of the kernel, which was its command line: selects the checks to run.

use core::fmt;

/// Selected checks. An environment without a selection selects everything except the cost figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Run the conformance table.
    pub suite: bool,
    /// Run further checks: concurrent guests, endless guests, hostile callers.
    pub checks: bool,
    /// Number of times to create, run and destroy a VM.
    pub cycles: u32,
    /// Measure the cost of operations.
    pub cost: bool,
    /// Run the unikernels of the archive that are not part of the table.
    pub guests: bool,
    /// Length in bytes of the archive after the program.
    pub pack: usize,
    /// Seconds from the Unix epoch to the machine's start, because its kernel does not read the
    /// date.
    pub time: u64,
}

/// A line that is not an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownOption<'a>(pub &'a str);

impl fmt::Display for UnknownOption<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(line) = self;
        write!(f, "unknown option {line:?}: expected suite, checks, cycles=N, cost, guests, pack=BYTES or time=SECONDS")
    }
}

impl Options {
    const NOTHING: Self = Self { suite: false, checks: false, cycles: 0, cost: false, guests: false, pack: 0, time: 0 };

    /// Default number of times to create, run and destroy a VM.
    pub const CYCLES: u32 = 200;

    /// Parses an environment.
    ///
    /// # Errors
    /// Returns [`UnknownOption`] with the first line that is not an option.
    pub fn parse(environment: &str) -> Result<Self, UnknownOption<'_>> {
        let mut options = Self::NOTHING;
        for line in environment.split_ascii_whitespace() {
            let unknown = UnknownOption(line);
            match line.split_once('=') {
                None if line == "suite" => options.suite = true,
                None if line == "checks" => options.checks = true,
                None if line == "cost" => options.cost = true,
                None if line == "guests" => options.guests = true,
                Some(("cycles", number)) => options.cycles = number.parse().map_err(|_| unknown)?,
                Some(("pack", number)) => options.pack = number.parse().map_err(|_| unknown)?,
                Some(("time", number)) => options.time = number.parse().map_err(|_| unknown)?,
                _ => return Err(unknown),
            }
        }
        if !(options.suite || options.checks || options.cost || options.guests || options.cycles > 0) {
            options = Self { suite: true, checks: true, cycles: Self::CYCLES, ..options };
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_runs() {
        let everything = Options { suite: true, checks: true, cycles: 200, pack: 512, ..Options::NOTHING };
        assert_eq!(Options::parse("pack=512\n"), Ok(everything));
        let some = Options { suite: true, cycles: 7, time: 9, ..Options::NOTHING };
        assert_eq!(Options::parse("suite\ncycles=7\ntime=9\n"), Ok(some));
    }

    #[test]
    fn a_line_that_is_no_option_is_named() {
        for line in ["suites", "cycles", "cycles=x", "suite=1", "pack=-1"] {
            assert_eq!(Options::parse(line), Err(UnknownOption(line)));
        }
    }
}
