//! Names of outcomes. Tests use them to measure the code that their inputs reach.

use std::fmt::Debug;

/// Returns the name of an outcome of `what`: the variants in the value's debug output, without
/// numbers and texts.
pub(crate) fn outcome(what: &str, value: &impl Debug) -> String {
    let text = format!("{value:?}");
    let variants = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.starts_with(char::is_uppercase));
    [what].into_iter().chain(variants.take(3)).collect::<Vec<_>>().join(" ")
}
