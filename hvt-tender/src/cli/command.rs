//! Builds two [`clap::Command`]s from the table of options: a parser and the documented command.

use std::ffi::OsString;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, ArgAction, Command, ValueHint, value_parser};

use super::FAILED;
use super::option::{Argument, Form, Row, Systems};
use super::personality::Personality;
use super::table::rows;

/// Width of `--help` in columns.
const WIDTH: usize = 80;

/// Indentation of an option's help by clap, in columns.
const INDENTATION: usize = 10;

const ABOUT_NAMES: &str = "\
NAME is the name of a device in the unikernel's manifest. It can be omitted if the unikernel declares one device of the kind. \
`--net:NAME=SOURCE`, the form of solo5-hvt, is accepted for every option of a device. Write a path that looks like `NAME=VALUE` \
as `./NAME=VALUE`.";

/// Returns a command that parses these options.
///
/// Each option costs clap some 2,000 instructions, so a run builds only the options on its command
/// line.
pub(super) fn parser<'r>(rows: impl IntoIterator<Item = &'r Row>) -> Command {
    bare("").no_binary_name(true).version("").args(rows.into_iter().map(option))
}

/// Returns the command that `--help` prints. Its lines are wrapped, and options that `system` lacks
/// are omitted.
fn terminal(personality: Personality, system: Systems) -> Command {
    let options = rows().filter(|row| row.systems.contains(system)).map(|row| {
        let forms = row.forms.iter().filter(|form| form.systems.contains(system));
        option(row).help(wrap(&help(row, forms), WIDTH - INDENTATION))
    });
    let notes = wrap(&notes(personality), WIDTH);
    documented(personality, options).next_line_help(true).after_help(notes)
}

/// Prints the help. Returns the exit status.
pub(super) fn print_help(personality: Personality) -> i32 {
    let text = terminal(personality, Systems::current()).render_help().to_string();
    match (personality.print(&text), personality) {
        (0, Personality::Solo5Hvt) => FAILED,
        (status, _) => status,
    }
}

/// Returns the command line of `hvt-tender` with its documentation, for generators of manual pages and completions.
#[must_use]
pub fn command() -> Command {
    let options = rows().map(|row| {
        // Completions show the short help, manual pages the long one, in paragraphs.
        let long_help = help(row, row.forms.iter()).replace('\n', "\n\n");
        let option = option(row).help(help(row, [].iter())).long_help(long_help).value_hint(row.hint);
        let words =
            row.forms.iter().map(|form| Some(PossibleValue::new(form.as_word()?).help(form.help.replace('`', ""))));
        match words.collect::<Option<Vec<_>>>() {
            Some(words) if !words.is_empty() => {
                option.value_parser(PossibleValuesParser::new(words)).hide_possible_values(true)
            }
            _ => option,
        }
    });
    documented(Personality::HvtTender, options).after_help(notes(Personality::HvtTender))
}

fn documented(personality: Personality, options: impl Iterator<Item = Arg>) -> Command {
    let kernel = positional("KERNEL").required(true).value_hint(ValueHint::FilePath).help("File of the unikernel");
    let arguments = positional("ARGUMENT").num_args(0..).trailing_var_arg(true).allow_hyphen_values(true);
    let arguments = arguments.help("Arguments of the unikernel: every word after KERNEL");
    bare(personality.name())
        .version(env!("CARGO_PKG_VERSION"))
        .about("Runs a Solo5 unikernel")
        .args([kernel, arguments])
        .args(options)
}

fn bare(program: &'static str) -> Command {
    Command::new(program).disable_help_flag(true).disable_version_flag(true)
}

/// Returns an option as clap parses it.
fn option(row: &Row) -> Arg {
    let mut option = Arg::new(row.long).long(row.long).short(row.short).help_heading(row.group.heading());
    if let Some(placeholder) = row.placeholder() {
        option = option.value_name(placeholder).value_parser(value_parser!(OsString));
    }
    match row.argument {
        Argument::Help => option.action(ArgAction::Help),
        Argument::Version => option.action(ArgAction::Version),
        // A switch may be repeated.
        Argument::Switch(_) => option.action(ArgAction::SetTrue).overrides_with(row.long),
        Argument::Count(_) => option.action(ArgAction::Count),
        Argument::Value(..) | Argument::Device(..) => option.action(ArgAction::Append),
        Argument::Optional(..) | Argument::DeviceSwitch(_) => {
            option.action(ArgAction::Append).num_args(0..=1).require_equals(true)
        }
    }
}

fn positional(id: &'static str) -> Arg {
    Arg::new(id).value_parser(value_parser!(OsString))
}

/// Returns the help of an option and of the forms of its value, without backticks.
fn help<'f>(row: &Row, forms: impl Iterator<Item = &'f Form>) -> String {
    let forms = forms.map(|form| format!("\n- {}: {}", form.pattern(), form.help));
    [row.help.to_owned()].into_iter().chain(forms).collect::<String>().replace('`', "")
}

fn notes(personality: Personality) -> String {
    format!("{ABOUT_NAMES}\n\n{}", personality.statuses()).replace('`', "")
}

/// Breaks the lines of a text. Clap can wrap lines only with its feature that queries the terminal
/// width.
fn wrap(text: &str, width: usize) -> String {
    let mut wrapped = String::new();
    for line in text.lines() {
        // Lines of a list item are indented to the text after the dash.
        let margin = if line.starts_with("- ") { "  " } else { "" };
        let mut column = 0;
        for word in line.split(' ') {
            let length = word.chars().count();
            if column > 0 && column + 1 + length > width {
                wrapped.push('\n');
                wrapped.push_str(margin);
                column = margin.len();
            } else if column > 0 {
                wrapped.push(' ');
                column += 1;
            }
            wrapped.push_str(word);
            column += length;
        }
        wrapped.push('\n');
    }
    wrapped.truncate(wrapped.trim_end().len());
    wrapped
}

/// Returns the table of options in docs/options.md.
#[must_use]
pub fn markdown() -> String {
    let mut table = String::from("| option | meaning | Redox |\n|---|---|---|\n");
    for row in rows() {
        let name = match (row.argument, row.placeholder()) {
            (_, None) => format!("--{}", row.long),
            (Argument::Optional(..) | Argument::DeviceSwitch(_), Some(value)) => format!("--{}[={value}]", row.long),
            (_, Some(value)) => format!("--{}={value}", row.long),
        };
        let letter = row.short.map(|letter| format!("`-{letter}`, ")).unwrap_or_default();
        table.push_str(&table_row(&format!("{letter}`{name}`"), row.help, row.systems));
        for form in row.forms {
            table.push_str(&table_row(&format!("... `{}`", form.pattern()), form.help, form.systems & row.systems));
        }
    }
    table
}

fn table_row(option: &str, meaning: &str, systems: Systems) -> String {
    let redox = if systems.contains(Systems::REDOX) { "yes" } else { "no" };
    format!("| {} | {} | {redox} |\n", option.replace('|', "\\|"), meaning.replace('|', "\\|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEMS: [Systems; 2] = [Systems::LINUX, Systems::REDOX];

    fn printed(personality: Personality, system: Systems) -> String {
        terminal(personality, system).render_help().to_string()
    }

    #[test]
    fn help_fits_80_columns() {
        for system in SYSTEMS {
            for personality in [Personality::HvtTender, Personality::Solo5Hvt] {
                let help = printed(personality, system);
                let wide: Vec<_> = help.lines().filter(|line| line.chars().count() > WIDTH).collect();
                assert!(wide.is_empty(), "{wide:#?}");
            }
        }
    }

    #[test]
    fn help_lists_the_options_of_the_system_under_their_headings() {
        let (linux, redox) = (printed(Personality::HvtTender, SYSTEMS[0]), printed(Personality::HvtTender, SYSTEMS[1]));
        for row in rows() {
            for (help, system) in [(&linux, SYSTEMS[0]), (&redox, SYSTEMS[1])] {
                let mut lines = help.lines();
                let listed =
                    lines.clone().any(|line| line.split([' ', '[', '.']).any(|word| word == format!("--{}", row.long)));
                assert_eq!(listed, row.systems.contains(system), "{} {help}", row.long);
                let heading = format!("{}:", row.group.heading());
                assert!(!listed || lines.any(|line| line == heading), "{heading}");
            }
        }
        assert!(
            linux.starts_with("Runs a Solo5 unikernel\n\nUsage: hvt-tender [OPTIONS] <KERNEL> [ARGUMENT]...\n"),
            "{linux}"
        );
        assert!(linux.contains("unix:PATH") && !redox.contains("unix:PATH"));
        assert!(!linux.contains('`'));
    }

    /// Builds every option, which runs the assertions of clap.
    #[test]
    fn the_table_is_consistent() {
        parser(rows()).debug_assert();
        command().debug_assert();
        for system in SYSTEMS {
            terminal(Personality::Solo5Hvt, system).debug_assert();
        }
    }

    #[test]
    fn lines_break_at_words() {
        assert_eq!(wrap("one two three", 7), "one two\nthree");
        assert_eq!(wrap("- one two three\n\nfour", 9), "- one two\n  three\n\nfour");
        assert_eq!(wrap("overlong x", 4), "overlong\nx");
        assert_eq!(wrap("", 4), "");
    }
}
