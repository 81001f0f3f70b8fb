//! Thread-local storage.
//!
//! What C calls the TLS block is memory of its own at any address. The block that the ELF TLS ABI speaks of begins at
//! the first address in it that is aligned as variables may need.

use core::mem::MaybeUninit;
use core::{ptr, slice};

use guest_bindings::tls;

use crate::device::CResult;

/// Bytes at the start of C's memory that alignment may cost.
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
/// `tls` is null, or the address of `solo5_tls_size()` bytes that stay the thread's.
#[unsafe(no_mangle)]
unsafe extern "C" fn solo5_tls_init(tls: usize) -> CResult {
    if tls == 0 {
        return CResult::INVALID;
    }
    let block = ptr::with_exposed_provenance_mut::<MaybeUninit<u8>>(aligned(tls));
    // SAFETY: The caller's promise; what alignment takes from the start was added to the size.
    tls::init(unsafe { slice::from_raw_parts_mut(block, tls::block_layout().size()) });
    CResult::OK
}

/// # Safety
///
/// `base` is what [`solo5_tls_tp_offset`] returned for a block that [`solo5_tls_init`] has seen; or the thread uses no
/// thread-local variables while it is set.
#[unsafe(no_mangle)]
unsafe extern "C" fn solo5_set_tls_base(base: usize) -> CResult {
    // SAFETY: The caller's promise.
    match unsafe { tls::set_raw_thread_pointer(base) } {
        Ok(()) => CResult::OK,
        Err(_) => CResult::INVALID,
    }
}

const fn aligned(tls: usize) -> usize {
    tls.wrapping_add(SLACK) & !SLACK
}
