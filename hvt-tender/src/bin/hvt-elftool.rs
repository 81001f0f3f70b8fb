//! `hvt-elftool`: generates manifests, and prints the ABI and the manifest of a unikernel.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    hvt_tender::elftool::main(env::args_os()).into()
}
