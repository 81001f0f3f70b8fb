//! Time from exec to exit.

use std::io;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::guest::Tender;

/// Number of pairs of runs.
const PAIRS: usize = 200;

/// Measures the guest `hello` and `/bin/true` alternately. Returns the medians in microseconds.
pub(crate) fn exec_to_exit(tender: &Tender) -> io::Result<(f64, f64)> {
    let mut hello = tender.command("hello", &[]);
    let mut nothing = Command::new("/bin/true");
    for command in [&mut hello, &mut nothing] {
        command.stdout(Stdio::null());
        time(command)?;
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        ours.push(time(&mut hello)?);
        theirs.push(time(&mut nothing)?);
    }
    Ok((median(ours), median(theirs)))
}

fn time(command: &mut Command) -> io::Result<f64> {
    let start = Instant::now();
    let status = command.status()?;
    let elapsed = start.elapsed().as_secs_f64() * 1e6;
    if status.success() { Ok(elapsed) } else { Err(io::Error::other(format!("{command:?} ended with {status}"))) }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
