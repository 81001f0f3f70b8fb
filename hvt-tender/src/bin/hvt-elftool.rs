//! `hvt-elftool`: makes manifests, and says what a unikernel was built for.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    hvt_tender::elftool::main(env::args_os()).into()
}
