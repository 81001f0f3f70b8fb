//! Thread-local storage with the layout of the ELF TLS ABI.
//!
//! The guest starts with a block for its first thread, so that compiled code finds its variables
//! relative to the thread pointer. A scheduler creates one more block for each of its threads with
//! [`init`] and switches between the blocks with [`set_thread_pointer`].

#![expect(unsafe_code, reason = "hypercalls, and memory that the tender writes")]

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr;

use crate::{DeviceError, arch, layout};

/// Maximum alignment of a thread-local variable in bytes. The linker script rejects larger
/// alignments.
pub const ALIGNMENT: usize = 64;

/// Layout of a thread's block, which depends on the architecture. The thread pointer points to the
/// thread control block, whose first word contains its own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// The variables follow the thread control block, which has two words: aarch64 (*ELF for the
    /// Arm 64-bit Architecture*, 7).
    #[cfg_attr(not(any(test, target_arch = "aarch64")), expect(dead_code, reason = "another architecture's"))]
    One,
    /// The variables end at the thread control block, which has one word: x86_64 (*System V ABI*,
    /// AMD64 supplement, 3.4.6).
    #[cfg_attr(not(any(test, target_arch = "x86_64")), expect(dead_code, reason = "another architecture's"))]
    Two,
}

/// Layout of a thread's block: offsets in bytes from its start, which is aligned to [`ALIGNMENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    variables: usize,
    thread_pointer: usize,
    size: usize,
}

impl Block {
    /// Computes the layout for `len` bytes of variables that are aligned to `alignment`.
    const fn new(variant: Variant, len: usize, alignment: usize) -> Self {
        const WORD: usize = size_of::<usize>();
        match variant {
            Variant::One => {
                let variables = (2 * WORD).next_multiple_of(alignment);
                Self { variables, thread_pointer: 0, size: variables + len }
            }
            Variant::Two => {
                let thread_pointer = len.next_multiple_of(alignment);
                Self { variables: 0, thread_pointer, size: thread_pointer + WORD }
            }
        }
    }

    fn here() -> Self {
        let template = layout::tls_template();
        Self::new(arch::TLS_VARIANT, template.len, template.alignment)
    }
}

/// Value of the thread pointer (x86_64: FS.base, aarch64: TPIDR_EL0) for one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadPointer(usize);

impl ThreadPointer {
    /// Returns the address that the thread pointer holds.
    #[must_use]
    pub const fn address(self) -> usize {
        self.0
    }
}

/// Returns size and alignment of a thread's block.
#[must_use]
pub fn block_layout() -> Layout {
    match Layout::from_size_align(Block::here().size, ALIGNMENT) {
        Ok(layout) => layout,
        Err(_) => unreachable!("a size taken from the linker fits into memory"),
    }
}

/// Returns the offset in bytes of the thread pointer from the start of a thread's block.
#[must_use]
pub fn thread_pointer_offset() -> usize {
    Block::here().thread_pointer
}

/// Writes the initial values of a thread's variables to its block.
///
/// # Panics
///
/// Panics if the block is smaller or less aligned than [`block_layout`] requires.
pub fn init(block: &'static mut [MaybeUninit<u8>]) -> ThreadPointer {
    let layout = block_layout();
    assert!(block.len() >= layout.size(), "block of {} bytes: {} required", block.len(), layout.size());
    let start = block.as_mut_ptr().cast::<u8>();
    assert!(start.addr().is_multiple_of(layout.align()), "the block at {start:p} is not aligned to {}", layout.align());

    let template = layout::tls_template();
    let Block { variables, thread_pointer, .. } = Block::here();
    let data_len = template.data.end.addr() - template.data.start.addr();
    // SAFETY: The block is an exclusive reference and is long enough for variables and control
    // block, as checked above. The template lies in the guest's data, which an allocated block
    // cannot overlap.
    unsafe {
        let variables = start.add(variables);
        ptr::copy_nonoverlapping(template.data.start, variables, data_len);
        ptr::write_bytes(variables.add(data_len), 0, template.len - data_len);
        let pointer = start.add(thread_pointer);
        pointer.cast::<usize>().write_unaligned(pointer.expose_provenance());
        ThreadPointer(pointer.addr())
    }
}

/// Returns the thread pointer of the running thread.
#[must_use]
pub fn thread_pointer() -> ThreadPointer {
    ThreadPointer(arch::thread_pointer())
}

/// Makes the block of `pointer` the block of the running thread.
///
/// # Safety
///
/// The block must stay allocated while it is in use. Addresses of thread-local variables taken
/// before the call keep referring to the previous block.
pub unsafe fn set_thread_pointer(pointer: ThreadPointer) {
    // SAFETY: Only `init` creates a `ThreadPointer`. The caller guarantees that its block is
    // allocated.
    unsafe { arch::set_thread_pointer(pointer.0) }
}

/// Variant of [`set_thread_pointer`] for bindings of other languages, which store pointers as
/// numbers.
///
/// # Errors
///
/// Returns [`DeviceError::Invalid`] if the CPU does not accept the address.
///
/// # Safety
///
/// The requirements of [`set_thread_pointer`] apply. Alternatively, no thread-local variable may be
/// used while the address is set.
pub unsafe fn set_raw_thread_pointer(address: usize) -> Result<(), DeviceError> {
    if address >= arch::ADDRESS_END {
        return Err(DeviceError::Invalid);
    }
    // SAFETY: The CPU accepts the address. The caller guarantees the remaining requirements.
    unsafe { arch::set_thread_pointer(address) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_lie_behind_the_control_block_in_variant_one() {
        let block = |len, alignment| Block::new(Variant::One, len, alignment);
        assert_eq!(block(0, 1), Block { variables: 16, thread_pointer: 0, size: 16 });
        assert_eq!(block(20, 8), Block { variables: 16, thread_pointer: 0, size: 36 });
        assert_eq!(block(20, 64), Block { variables: 64, thread_pointer: 0, size: 84 });
    }

    #[test]
    fn variables_end_at_the_control_block_in_variant_two() {
        let block = |len, alignment| Block::new(Variant::Two, len, alignment);
        assert_eq!(block(0, 1), Block { variables: 0, thread_pointer: 0, size: 8 });
        assert_eq!(block(20, 8), Block { variables: 0, thread_pointer: 24, size: 32 });
        assert_eq!(block(20, 64), Block { variables: 0, thread_pointer: 64, size: 72 });
    }
}
