//! Output of this process and its guests: the kernel's own output.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use alloc::string::String;
use core::fmt::{self, Write};

use spin::Once;

use crate::{
    fd::{Fd, Scheme},
    sys,
};

static CONSOLE: Once<Option<Fd>> = Once::new();

/// Prints bytes unchanged, in one call, so that the lines of threads do not mix.
pub(crate) fn print_bytes(bytes: &[u8]) {
    if let Some(fd) = CONSOLE.call_once(|| Fd::open(Scheme::Debug, "").ok()) {
        // SAFETY: the descriptor is the kernel's output, which only prints the bytes.
        let _ = unsafe { sys::write(fd.number(), bytes) };
    }
}

/// Prints a line.
pub(crate) fn print_line(line: fmt::Arguments<'_>) {
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let _ = writeln!(text, "init: {line}");
    print_bytes(text.as_bytes());
}

/// Prints a line without the heap, which may be corrupt.
pub(crate) fn print_last_words(words: fmt::Arguments<'_>) {
    struct Direct;
    impl Write for Direct {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            print_bytes(text.as_bytes());
            Ok(())
        }
    }
    let _ = writeln!(Direct, "init: {words}");
}

/// Prints a line.
macro_rules! println {
    ($($argument:tt)*) => { $crate::console::print_line(format_args!($($argument)*)) };
}
pub(crate) use println;
