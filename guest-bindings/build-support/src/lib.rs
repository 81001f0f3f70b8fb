//! Build script support for Solo5 HVT guests:
//!
//! ```no_run
//! fn main() {
//!     guest_bindings_build::link();
//! }
//! ```
//!
//! It passes the linker a script with the memory layout that a tender requires. The guest's
//! binaries are linked statically at fixed addresses, without the start files and libraries of the
//! host. The host's target (`x86_64-unknown-linux-gnu`, `aarch64-unknown-linux-gnu`) is therefore
//! sufficient, as is a bare-metal target (`x86_64-unknown-none`, `aarch64-unknown-none`).
#![allow(clippy::needless_doctest_main, reason = "the example is a whole build script")]

use std::env;

/// Links every binary of the package as a Solo5 HVT guest.
///
/// # Panics
///
/// Panics outside a build script, and for an architecture that guests cannot be built for. The
/// build then fails with a message.
pub fn link() {
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    if !["x86_64", "aarch64"].contains(&architecture.as_str()) {
        panic!("guest-bindings: unsupported architecture '{architecture}': use x86_64 or aarch64");
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/hvt.lds");
    println!("cargo:rerun-if-changed={script}");

    // A bare-metal target invokes the linker directly. A target with an operating system invokes
    // the C compiler, whose start files and libraries must not be linked into a guest.
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
