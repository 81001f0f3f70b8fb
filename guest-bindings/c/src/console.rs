//! The console.

#![expect(unsafe_code, reason = "functions that C calls, with pointers")]

use guest_bindings::console;

use crate::device;

/// # Safety
///
/// `size` bytes at `buf` must be valid for reads.
#[unsafe(no_mangle)]
unsafe extern "C" fn solo5_console_write(buf: *const u8, size: usize) {
    // SAFETY: Guaranteed by the caller.
    if let Some(bytes) = unsafe { device::bytes(buf, size) } {
        console::write(bytes);
    }
}
