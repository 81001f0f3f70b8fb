//! The console.

use guest_bindings::console;

use crate::device;

/// # Safety
///
/// `size` bytes at `buf` are valid to read.
#[unsafe(no_mangle)]
unsafe extern "C" fn solo5_console_write(buf: *const u8, size: usize) {
    // SAFETY: The caller's promise.
    if let Some(bytes) = unsafe { device::bytes(buf, size) } {
        console::write(bytes);
    }
}
