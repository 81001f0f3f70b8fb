//! Start information passed to the guest's `main`.

use core::ffi::CStr;
use core::ops::Range;

use crate::abort;

/// Minimum and maximum size of the memory reserved for the stack, in bytes.
const STACK: Range<usize> = 64 << 10..1 << 20;

/// Start information passed to the guest's `main`.
#[derive(Clone, Debug)]
pub struct StartInfo {
    /// Size of the guest's memory in bytes.
    pub memory_size: usize,
    /// First free address after the guest, page-aligned.
    ///
    /// With the feature `alloc` the heap belongs to the global allocator.
    pub heap_start: usize,
    /// Size of the heap in bytes. The stack lies above the heap, at the top of memory. It takes an
    /// eighth of the free memory, at least 64 KiB and at most 1 MiB.
    pub heap_size: usize,
    /// The command line without the bindings' options at its start (`--solo5:quiet`).
    pub command_line: &'static str,
}

impl StartInfo {
    /// Returns the words of the command line.
    pub fn arguments(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.command_line.split_ascii_whitespace()
    }
}

/// Start information without assumptions of Rust, for bindings of other languages. Their entry is
/// [`entry!(raw ..)`](crate::entry!).
#[derive(Clone, Debug)]
pub struct Start {
    /// Size of the guest's memory in bytes.
    pub memory_size: usize,
    /// The heap. The stack grows down from the end of memory.
    pub heap: Range<usize>,
    /// The command line in any encoding, without the options of the bindings.
    pub command_line: &'static CStr,
}

impl Start {
    /// Returns the start information for a guest written in Rust. A command line that is not UTF-8
    /// terminates the guest.
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

/// Divides the memory from `start` to `end` into heap and stack. Returns `None` if the memory is
/// too small for both.
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
