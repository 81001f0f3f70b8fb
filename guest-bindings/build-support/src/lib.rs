//! The build script of a Solo5 HVT guest:
//!
//! ```no_run
//! fn main() {
//!     guest_bindings_build::link();
//! }
//! ```
//!
//! It hands the linker the script that lays a guest out as a tender expects it. The guest's binaries are linked
//! statically at fixed addresses, without the start files and libraries of the host, so the host's own target serves
//! (`x86_64-unknown-linux-gnu`, `aarch64-unknown-linux-gnu`), as does a bare one (`x86_64-unknown-none`,
//! `aarch64-unknown-none`).
#![allow(clippy::needless_doctest_main, reason = "the example is a whole build script")]

use std::env;

/// Has every binary of the package linked as a Solo5 HVT guest.
///
/// # Panics
///
/// Outside a build script, and for an architecture that guests cannot be built for: the build ends with a message.
pub fn link() {
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    if !["x86_64", "aarch64"].contains(&architecture.as_str()) {
        panic!("guest-bindings: there are no guests for the architecture {architecture}");
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/hvt.lds");
    println!("cargo:rerun-if-changed={script}");

    // A bare target calls the linker itself; one with an operating system calls the C compiler, whose own files and
    // libraries have no place in a guest.
    let (through_compiler, prefix) = match variable("CARGO_CFG_TARGET_OS").as_str() {
        "none" => ([].as_slice(), ""),
        _ => (["-nostartfiles", "-nostdlib", "-static", "-no-pie"].as_slice(), "-Wl,"),
    };
    let linker = ["-static", "--no-pie", "--gc-sections", "-zmax-page-size=4096", "-znorelro", "-znognustack"];
    for option in through_compiler {
        println!("cargo:rustc-link-arg-bins={option}");
    }
    for option in linker.into_iter().chain(["--build-id=none"]) {
        println!("cargo:rustc-link-arg-bins={prefix}{option}");
    }
    println!("cargo:rustc-link-arg-bins=-T{script}");
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: call link() from a build script"))
}
