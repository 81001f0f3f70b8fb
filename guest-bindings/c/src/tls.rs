//! Thread-local storage.
//!
//! The TLS block of C is separate memory at any address. The block of the ELF TLS ABI begins at the
//! first address in that memory with the alignment that variables may require.

#![expect(unsafe_code, reason = "functions that C calls, with pointers")]

use core::mem::MaybeUninit;
use core::{ptr, slice};

use guest_bindings::tls;

use crate::device::CResult;

/// Maximum number of bytes at the start of C's memory that are lost to alignment.
const SLACK: usize = tls::ALIGNMENT - 1;

#[unsafe(no_mangle)]
extern "C" fn solo5_tls_size() -> usize {
    tls::block_layout().size() + SLACK
}

#[unsafe(no_mangle)]
extern "C" fn solo5_tls_tp_offset(tls: usize) -> usize {
    aligned(tls) + tls::thread_pointer_offset()
}

/// # Safety
///
/// `tls` must be null, or the address of `solo5_tls_size()` bytes that belong to the thread
/// permanently.
#[unsafe(no_mangle)]
unsafe extern "C" fn solo5_tls_init(tls: usize) -> CResult {
    if tls == 0 {
        return CResult::INVALID;
    }
    let block = ptr::with_exposed_provenance_mut::<MaybeUninit<u8>>(aligned(tls));
    // SAFETY: Guaranteed by the caller. The size includes the bytes that alignment skips at the
    // start.
    tls::init(unsafe { slice::from_raw_parts_mut(block, tls::block_layout().size()) });
    CResult::OK
}

/// # Safety
///
/// `base` must be the result of [`solo5_tls_tp_offset`] for a block that was initialized with
/// [`solo5_tls_init`]. Alternatively, the thread must not use thread-local variables while `base`
/// is set.
#[unsafe(no_mangle)]
unsafe extern "C" fn solo5_set_tls_base(base: usize) -> CResult {
    // SAFETY: Guaranteed by the caller.
    match unsafe { tls::set_raw_thread_pointer(base) } {
        Ok(()) => CResult::OK,
        Err(_) => CResult::INVALID,
    }
}

const fn aligned(tls: usize) -> usize {
    tls.wrapping_add(SLACK) & !SLACK
}
