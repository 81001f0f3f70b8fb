//! Table of results.

use std::fmt;
use std::process::ExitCode;

/// Result, the reference to compare it with, and the bound of their ratio.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) figure: Figure,
    pub(crate) against: &'static str,
    pub(crate) other: Figure,
    /// Upper bound of the ratio.
    pub(crate) at_most: f64,
}

/// Number with its unit.
#[derive(Clone, Copy)]
pub(crate) enum Figure {
    Microseconds(f64),
    Kib(f64),
}

impl Figure {
    fn number(self) -> f64 {
        match self {
            Self::Microseconds(number) | Self::Kib(number) => number,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Microseconds(number) if *number < 1000.0 => write!(f, "{number:.2} us"),
            Self::Microseconds(number) => write!(f, "{:.2} ms", number / 1000.0),
            Self::Kib(number) => write!(f, "{number:.0} KiB"),
        }
    }
}

/// Prints the table. With `check`, fails if a bound is exceeded.
pub(crate) fn print(rows: &[Row], check: bool) -> ExitCode {
    let mut broken = 0;
    println!("| what | figure | against | figure | ratio | at most | |");
    println!("|---|---|---|---|---|---|---|");
    for row in rows {
        let ratio = row.figure.number() / row.other.number();
        // Not `ratio > at_most`, so that NaN breaks the bound too.
        let holds = ratio <= row.at_most;
        broken += u32::from(!holds);
        let verdict = if holds { "holds" } else { "BROKEN" };
        println!(
            "| {} | {} | {} | {} | {ratio:.2} | {} | {verdict} |",
            row.what, row.figure, row.against, row.other, row.at_most
        );
    }
    if check && broken > 0 {
        eprintln!("bench: {broken} bounds broken");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
