//! `hvt-tender`: runs Solo5 unikernels from the command line.
//!
//! The program bypasses the standard library's set-up for `main`: reading `/proc/self/maps` and
//! allocating a stack for the handler of stack overflows takes longer than all work of the tender
//! before a small unikernel runs, and `/proc` may be missing. [`cli::main`] does the parts of the
//! set-up that are needed.
#![expect(unsafe_code, reason = "replaces the `main` of the standard library")]
#![no_main]

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::process::exit;

use hvt_tender::cli;

/// Entry point, called by the C library.
#[unsafe(no_mangle)]
unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let argument = |index| -> OsString {
        // SAFETY: `index` is below `argc`, and the string ends with a NUL.
        let argument = unsafe { CStr::from_ptr(*argv.add(index)) };
        OsStr::from_bytes(argument.to_bytes()).to_owned()
    };
    exit(cli::main((0..usize::try_from(argc).unwrap_or(0)).map(argument)))
}
