//! Thread-local storage, as the ELF TLS ABI lays it out (variant II: the block ends at the thread pointer).
//!
//! The guest starts with a block of its own, so that compiled code finds its variables behind the thread pointer. A
//! scheduler makes one more for each of its threads with [`init`] and switches with [`set_thread_pointer`].

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr;

use crate::{Error, arch, layout};

/// Largest alignment of a thread-local variable in bytes; the linker refuses more.
pub const ALIGNMENT: usize = 64;

/// The word at the thread pointer: its own address.
const THREAD_CONTROL_BLOCK: usize = size_of::<usize>();

/// Value of the thread pointer (x86_64: FS.base) for one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadPointer(usize);

impl ThreadPointer {
    /// The address it points to.
    #[must_use]
    pub const fn address(self) -> usize {
        self.0
    }
}

/// Size and alignment of a thread's block.
#[must_use]
pub fn block_layout() -> Layout {
    let size = thread_pointer_offset() + THREAD_CONTROL_BLOCK;
    match Layout::from_size_align(size, ALIGNMENT) {
        Ok(layout) => layout,
        Err(_) => unreachable!("a size taken from the linker fits into memory"),
    }
}

/// Bytes from the start of a thread's block to where its thread pointer points.
#[must_use]
pub fn thread_pointer_offset() -> usize {
    let template = layout::tls_template();
    template.len.next_multiple_of(template.alignment)
}

/// Writes the initial values of a thread's variables into its block.
///
/// # Panics
///
/// Where the block is smaller or less aligned than [`block_layout`] says.
pub fn init(block: &'static mut [MaybeUninit<u8>]) -> ThreadPointer {
    let layout = block_layout();
    assert!(block.len() >= layout.size(), "a block of {} bytes holds no {}", block.len(), layout.size());
    let start = block.as_mut_ptr().cast::<u8>();
    assert!(start.addr().is_multiple_of(layout.align()), "the block at {start:p} is not aligned to {}", layout.align());

    let template = layout::tls_template();
    let end = thread_pointer_offset();
    let data_len = template.data.end.addr() - template.data.start.addr();
    // SAFETY: The block is exclusively ours and long enough for variables and control block, as checked above; the
    // template lies in the guest's own data, which a block that was allocated cannot overlap.
    unsafe {
        ptr::copy_nonoverlapping(template.data.start, start, data_len);
        ptr::write_bytes(start.add(data_len), 0, end - data_len);
        let pointer = start.add(end);
        pointer.cast::<usize>().write_unaligned(pointer.expose_provenance());
        ThreadPointer(pointer.addr())
    }
}

/// The running thread's.
#[must_use]
pub fn thread_pointer() -> ThreadPointer {
    ThreadPointer(arch::thread_pointer())
}

/// Makes the block behind `pointer` the running thread's.
///
/// # Safety
///
/// The block stays allocated while it is in use. Code that holds on to an address of a variable of the former block
/// knows that it is the former's.
pub unsafe fn set_thread_pointer(pointer: ThreadPointer) {
    // SAFETY: A `ThreadPointer` comes from `init` alone; the rest is the caller's promise.
    unsafe { arch::set_thread_pointer(pointer.0) }
}

/// [`set_thread_pointer`] for bindings of other languages, which keep pointers as numbers.
///
/// # Errors
///
/// [`Error::Invalid`] where the CPU would not take the address.
///
/// # Safety
///
/// As [`set_thread_pointer`]; or no thread-local variable is used while the address is set.
pub unsafe fn set_raw_thread_pointer(address: usize) -> Result<(), Error> {
    if address >= arch::ADDRESS_END {
        return Err(Error::Invalid);
    }
    // SAFETY: The CPU takes it, and the rest is the caller's promise.
    unsafe { arch::set_thread_pointer(address) };
    Ok(())
}
