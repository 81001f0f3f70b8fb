//! The console.

#![expect(unsafe_code, reason = "hypercalls, and memory that the tender writes")]

use core::fmt::{self, Write};

use hvt_abi::hypercall::{Number, Puts};

use crate::hypercall;

/// Writes bytes to the console unchanged.
pub fn write(bytes: &[u8]) {
    let mut argument = Puts { data: hypercall::reads(bytes), len: bytes.len() as u64 };
    // SAFETY: The tender reads the buffer, which is borrowed for the duration of the call.
    unsafe { hypercall::call::<{ Number::Puts as u32 }, _>(&mut argument) }
}

/// Writes formatted text. [`print!`](crate::print!) expands to a call of this function.
pub fn print(arguments: fmt::Arguments<'_>) {
    if let Some(text) = arguments.as_str() {
        return write(text.as_bytes());
    }
    let mut buffered = Buffered::new(write);
    // Only the `Display` implementation of an argument can return an error. The output then ends
    // early.
    let _ = buffered.write_fmt(arguments);
    buffered.flush();
}

/// Collects the fragments of a formatted text, so that a short text needs one hypercall.
struct Buffered<F: FnMut(&[u8])> {
    sink: F,
    bytes: [u8; BUFFER_SIZE],
    len: usize,
}

/// Size of the buffer in bytes. Console lines are rarely longer, and the buffer fits on any stack.
const BUFFER_SIZE: usize = 256;

impl<F: FnMut(&[u8])> Buffered<F> {
    fn new(sink: F) -> Self {
        Self { sink, bytes: [0; BUFFER_SIZE], len: 0 }
    }

    fn flush(&mut self) {
        if self.len > 0 {
            (self.sink)(&self.bytes[..self.len]);
            self.len = 0;
        }
    }
}

impl<F: FnMut(&[u8])> Write for Buffered<F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let text = text.as_bytes();
        if text.len() > BUFFER_SIZE - self.len {
            self.flush();
        }
        if text.len() > BUFFER_SIZE {
            (self.sink)(text);
        } else {
            self.bytes[self.len..self.len + text.len()].copy_from_slice(text);
            self.len += text.len();
        }
        Ok(())
    }
}

/// Writes formatted text to the console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::print(::core::format_args!($($argument)*)) };
}

/// Writes formatted text and a newline to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::console::write(b"\n") };
    ($($argument:tt)*) => { $crate::console::print(::core::format_args!("{}\n", ::core::format_args!($($argument)*))) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(write: impl FnOnce(&mut dyn Write)) -> Vec<String> {
        let mut pieces = Vec::new();
        let mut buffered = Buffered::new(|bytes: &[u8]| pieces.push(String::from_utf8(bytes.to_vec()).unwrap()));
        write(&mut buffered);
        buffered.flush();
        pieces
    }

    #[test]
    fn short_text_is_one_piece() {
        assert_eq!(pieces(|out| writeln!(out, "{}-two-{:#x}", 1, 3).unwrap()), ["1-two-0x3\n"]);
        assert!(pieces(|_| ()).is_empty());
    }

    #[test]
    fn long_text_comes_out_whole_and_in_order() {
        let long = "x".repeat(1000);
        let out = pieces(|out| write!(out, "<{long}>{}{}", "y".repeat(200), "z".repeat(100)).unwrap());
        assert_eq!(out.concat(), format!("<{long}>{}{}", "y".repeat(200), "z".repeat(100)));
        assert_eq!(out.len(), 4);
    }
}
