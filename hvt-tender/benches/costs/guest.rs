//! Runs guests and reads their console output.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Paths of the tender and of the guests to measure.
pub(crate) struct Tender {
    binary: PathBuf,
    guests: PathBuf,
}

impl Tender {
    pub(crate) fn from_environment() -> Result<Self, String> {
        let variable =
            |name| env::var_os(name).map(PathBuf::from).ok_or(format!("{name} is not set: use scripts/bench"));
        Ok(Self { binary: variable("HVT_TENDER")?, guests: variable("HVT_GUESTS")? })
    }

    /// Returns the command that runs a guest with 32 MiB of memory on the process backend.
    pub(crate) fn command(&self, guest: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["--backend=process", "--mem=32", "--"]).arg(self.guests.join(guest)).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a guest and returns the number behind `label` in its console output.
    pub(crate) fn number(&self, guest: &str, arguments: &[&str], label: &str) -> Result<f64, Box<dyn Error>> {
        let output = self.command(guest, arguments).output()?;
        let console = String::from_utf8(output.stdout)?;
        if !output.status.success() {
            let messages = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{guest} ended with {}: {console}{messages}", output.status).into());
        }
        let value = console.lines().find_map(|line| line.trim().strip_prefix(label));
        Ok(value.ok_or(format!("{guest}: no \"{label}\" in its output: {console}"))?.trim().parse()?)
    }
}

/// Returns the smallest of several results, because noise only increases a result.
pub(crate) fn least<E>(times: usize, mut one: impl FnMut() -> Result<f64, E>) -> Result<f64, E> {
    let mut least = f64::INFINITY;
    for _ in 0..times {
        least = least.min(one()?);
    }
    Ok(least)
}

/// Returns the duration of a TSC cycle in microseconds.
pub(crate) fn microseconds_per_cycle() -> Result<f64, Box<dyn Error>> {
    Ok(1e6 / hvt_tender::machine::cycle_frequency()? as f64)
}

/// Measures a walltime hypercall from inside the guest, in microseconds.
pub(crate) fn walltime(tender: &Tender) -> Result<f64, Box<dyn Error>> {
    let cycles = least(5, || tender.number("bench-walltime", &["20000"], "cycles per call:"))?;
    Ok(cycles * microseconds_per_cycle()?)
}
