//! `hvt-tender`: runs Solo5 unikernels from the command line.

use std::process::exit;

fn main() {
    exit(hvt_tender::cli::main(std::env::args_os().skip(1)))
}
