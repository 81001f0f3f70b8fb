//! Command line of the kernel: selects the checks to run.

/// Selected checks. An empty command line selects everything except the cost figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Probe the guarantees of the hypervisor.
    pub probes: bool,
    /// Run the conformance table.
    pub suite: bool,
    /// Number of times to create, run and destroy a VM.
    pub cycles: u32,
    /// Measure the cost of entries, exits and mappings.
    pub cost: bool,
    /// Run the unikernels of the archives that are not part of the table.
    pub guests: bool,
}

/// A word that is not an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownOption<'a>(pub &'a str);

impl core::fmt::Display for UnknownOption<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "unknown option {:?}: there are probes, suite, cycles=N, cost and guests", self.0)
    }
}

impl Options {
    const NOTHING: Self = Self { probes: false, suite: false, cycles: 0, cost: false, guests: false };
    const DEFAULT: Self = Self { probes: true, suite: true, cycles: 1000, cost: false, guests: true };

    /// Parses a command line.
    ///
    /// # Errors
    /// Returns [`UnknownOption`] with the first word that is not an option.
    pub fn parse(command_line: &str) -> Result<Self, UnknownOption<'_>> {
        let mut options = None;
        for word in command_line.split_ascii_whitespace() {
            let options = options.get_or_insert(Self::NOTHING);
            match word.split_once('=') {
                None if word == "probes" => options.probes = true,
                None if word == "suite" => options.suite = true,
                None if word == "cost" => options.cost = true,
                None if word == "guests" => options.guests = true,
                Some(("cycles", number)) => options.cycles = number.parse().map_err(|_| UnknownOption(word))?,
                _ => return Err(UnknownOption(word)),
            }
        }
        Ok(options.unwrap_or(Self::DEFAULT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_runs() {
        assert_eq!(Options::parse(" "), Ok(Options::DEFAULT));
        let expected = Options { probes: true, cycles: 7, ..Options::NOTHING };
        assert_eq!(Options::parse("probes  cycles=7"), Ok(expected));
    }

    #[test]
    fn a_word_that_is_no_option_is_named() {
        for line in ["probes all", "all", "cycles", "cycles=x", "suite=1"] {
            let word = line.rsplit(' ').next().unwrap();
            assert_eq!(Options::parse(line), Err(UnknownOption(word)));
        }
    }
}
