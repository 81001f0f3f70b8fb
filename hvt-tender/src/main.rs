//! `hvt-tender`: runs Solo5 unikernels from the command line.
//!
//! It starts without the standard library's preparations for `main`: reading `/proc/self/maps` and making a stack for
//! the handler of stack overflows takes longer than all that happens here before a small unikernel runs, and `/proc`
//! need not be there. What of them is needed, [`cli::main`] does.
#![no_main]

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::process::exit;

use hvt_tender::cli;

/// Called by the C library.
///
/// # Safety
/// `argv` must point to `argc` pointers to NUL-terminated strings.
#[unsafe(no_mangle)]
unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let argument = |index| -> OsString {
        // SAFETY: `index` is below `argc`, and the string ends with a NUL.
        let argument = unsafe { CStr::from_ptr(*argv.add(index)) };
        OsStr::from_bytes(argument.to_bytes()).to_owned()
    };
    exit(cli::main((0..usize::try_from(argc).unwrap_or(0)).map(argument)))
}
