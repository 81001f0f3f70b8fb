//! Where the test unikernels are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory that holds their binaries, built if need be.
pub(crate) fn directory() -> Result<PathBuf, String> {
    if let Some(directory) = env::var_os("HVT_GUESTS") {
        return Ok(directory.into());
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("this package has no workspace")?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--release", "--package", "test-unikernels", "--package", "debuggee"]);
    cargo.current_dir(workspace);
    let status = cargo.status().map_err(|error| format!("cannot run cargo: {error}"))?;
    if !status.success() {
        return Err("they do not build".to_owned());
    }
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |target| workspace.join(target));
    Ok(target.join("release"))
}
