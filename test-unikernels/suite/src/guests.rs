//! Location of the test unikernels, for tests on a host.

use std::env;
use std::ffi::OsStr;
use std::format;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::string::String;

/// Returns the directory with the test unikernels: `HVT_GUESTS`, or else the directory of
/// `scripts/guests`, which builds them with the program `elftool` (`hvt-elftool`).
///
/// # Errors
/// Returns the reason if the unikernels cannot be built.
pub fn directory(elftool: impl AsRef<OsStr>) -> Result<PathBuf, String> {
    if let Some(directory) = env::var_os("HVT_GUESTS") {
        return Ok(directory.into());
    }
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/guests"));
    script.env("HVT_ELFTOOL", elftool).stderr(Stdio::inherit());
    let output = script.output().map_err(|error| format!("cannot run scripts/guests: {error}"))?;
    if !output.status.success() {
        return Err("the build failed".into());
    }
    let directory = output.stdout.trim_ascii_end();
    Ok(Path::new(OsStr::from_bytes(directory)).to_path_buf())
}
