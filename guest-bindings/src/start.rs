//! What a guest's `main` is told.

use core::ffi::CStr;
use core::ops::Range;

use crate::abort;

/// Smallest and largest part of memory that is kept for the stack, in bytes.
const STACK: Range<usize> = 64 << 10..1 << 20;

/// What a guest's `main` is told.
#[derive(Clone, Debug)]
pub struct StartInfo {
    /// Size of the guest's memory in bytes.
    pub memory_size: usize,
    /// First free address behind the guest, page aligned.
    ///
    /// With the feature `alloc` the heap belongs to the global allocator.
    pub heap_start: usize,
    /// Bytes of the heap. The stack lies above, at the top of memory: an eighth of what is free, at least 64 KiB, at
    /// most 1 MiB.
    pub heap_size: usize,
    /// The command line without the options at its start that are meant for the bindings (`--solo5:quiet`).
    pub command_line: &'static str,
}

impl StartInfo {
    /// The words of the command line.
    pub fn arguments(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.command_line.split_ascii_whitespace()
    }
}

/// What the tender told, before anything is assumed about who asks: for bindings of other languages, whose entry is
/// [`entry!(raw ..)`](crate::entry!).
#[derive(Clone, Debug)]
pub struct Start {
    /// Size of the guest's memory in bytes.
    pub memory_size: usize,
    /// The heap. The stack has grown down from the end of memory.
    pub heap: Range<usize>,
    /// The command line, in whatever encoding, without the options that are meant for the bindings.
    pub command_line: &'static CStr,
}

impl Start {
    /// The same for a guest in Rust. A command line that is not UTF-8 ends it.
    #[must_use]
    pub fn info(&self) -> StartInfo {
        let command_line = match self.command_line.to_str() {
            Ok(line) => line,
            Err(error) => abort(format_args!("the command line is not UTF-8: {error}")),
        };
        let Self { memory_size, ref heap, .. } = *self;
        StartInfo { memory_size, heap_start: heap.start, heap_size: heap.len(), command_line }
    }
}

/// Divides the memory from `start` to `end` between heap and stack; `None` where there is too little for both.
pub(crate) fn heap(start: usize, end: usize) -> Option<Range<usize>> {
    let stack =
        (end.checked_sub(start)? / 8).clamp(STACK.start, STACK.end).next_multiple_of(hvt_abi::PAGE_SIZE as usize);
    let end = end.checked_sub(stack)?;
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stack_gets_an_eighth_within_bounds() {
        assert_eq!(heap(0x12_0000, 0x2000_0000), Some(0x12_0000..0x1ff0_0000));
        assert_eq!(heap(0x12_0000, 0x20_0000), Some(0x12_0000..0x1e_4000));
        assert_eq!(heap(0x1f_0000, 0x20_0000), None);
        assert_eq!(heap(0x21_0000, 0x20_0000), None);
    }
}
