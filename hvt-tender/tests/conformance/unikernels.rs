//! Location of the test unikernels.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Returns the directory with the test unikernels. They are built if necessary.
pub(crate) fn directory() -> Result<PathBuf, String> {
    if let Some(directory) = env::var_os("HVT_GUESTS") {
        return Ok(directory.into());
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("this package has no workspace")?;
    let mut script = Command::new(workspace.join("scripts/guests"));
    script.env("HVT_ELFTOOL", env!("CARGO_BIN_EXE_hvt-elftool")).stderr(Stdio::inherit());
    let output = script.output().map_err(|error| format!("cannot run scripts/guests: {error}"))?;
    if !output.status.success() {
        return Err("the build failed".to_owned());
    }
    let directory = output.stdout.trim_ascii_end();
    Ok(Path::new(OsStr::from_bytes(directory)).to_owned())
}
