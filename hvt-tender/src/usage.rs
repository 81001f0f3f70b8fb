//! Usage errors of clap in one line, `subject: problem: remedy`.

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Describes a rejected command line in one line.
pub(crate) fn problem(error: &Error) -> String {
    let argument = text(error, ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            format!("unknown option '{argument}'{}", suggestion(error, ContextKind::SuggestedArg))
        }
        ErrorKind::UnknownArgument => format!("unexpected argument '{argument}'"),
        ErrorKind::InvalidSubcommand => {
            let command = text(error, ContextKind::InvalidSubcommand);
            format!("unknown command '{command}'{}", suggestion(error, ContextKind::SuggestedSubcommand))
        }
        ErrorKind::MissingSubcommand => {
            format!("no command given: expected {}", text(error, ContextKind::ValidSubcommand))
        }
        ErrorKind::MissingRequiredArgument => format!("{argument}: argument missing"),
        // Value parsers run later, so clap itself rejects only a missing value.
        ErrorKind::InvalidValue => format!("{argument}: value missing"),
        ErrorKind::TooManyValues => {
            // Clap appends `...` to an option that may be repeated.
            let argument = argument.trim_end_matches("...");
            format!("{argument}: unexpected value '{}'", text(error, ContextKind::InvalidValue))
        }
        // The first line of clap's message is complete.
        _ => {
            let message = error.to_string();
            let line = message.lines().next().unwrap_or_default();
            line.strip_prefix("error: ").unwrap_or(line).to_owned()
        }
    }
}

/// Returns a suggestion with the most similar known word. Clap sorts the words by similarity.
fn suggestion(error: &Error, kind: ContextKind) -> String {
    let best = match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word),
        Some(ContextValue::Strings(words)) => words.last(),
        _ => None,
    };
    best.map(|word| format!(" (did you mean '{word}'?)")).unwrap_or_default()
}

/// Returns a part of the error, or an empty string if clap does not report it.
fn text(error: &Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(word)) => word.clone(),
        Some(ContextValue::Strings(words)) => words.join(", "),
        _ => String::new(),
    }
}
