//! Memory of the tender and its child process, without guest memory.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::guest::Tender;

/// Measures the peak resident memory of the tender and its child without guest memory, in KiB.
///
/// Guest memory is the only shared memory of the two processes, except for a few exchange pages.
/// The remaining pages are anonymous memory and pages of files.
pub(crate) fn beyond_the_guest(tender: &Tender) -> Result<f64, Box<dyn Error>> {
    let mut tender = tender.command("spin", &[]).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let mut console = BufReader::new(tender.stdout.take().ok_or("no console")?);
    // The set-up is complete when the guest has written a line.
    console.read_line(&mut line)?;
    let id = tender.id();
    let sum = children(id).and_then(|children| {
        let mut sum = 0.0;
        for process in children.into_iter().chain([id]) {
            sum += resident(process)?;
        }
        Ok(sum)
    });
    tender.kill()?;
    tender.wait()?;
    sum
}

fn children(process: u32) -> Result<Vec<u32>, Box<dyn Error>> {
    let list = fs::read_to_string(format!("/proc/{process}/task/{process}/children"))?;
    let children: Vec<u32> = list.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    if children.is_empty() { Err("the tender has no child".into()) } else { Ok(children) }
}

/// Returns VmHWM minus RssShmem of a process in KiB.
fn resident(process: u32) -> Result<f64, Box<dyn Error>> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let kib = |name: &str| -> Result<f64, Box<dyn Error>> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or(format!("no {name}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    Ok(kib("VmHWM:")? - kib("RssShmem:")?)
}
