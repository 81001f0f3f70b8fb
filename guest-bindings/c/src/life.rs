//! Start and termination.

#![expect(unsafe_code, reason = "functions that C calls, with pointers")]

use core::ffi::{c_char, c_int};

use guest_bindings::{ExitStatus, Start, abort, exit, tls};

use crate::guard;

/// `struct solo5_start_info`.
#[repr(C)]
struct StartInfo {
    cmdline: *const c_char,
    heap_start: usize,
    /// Size up to the end of memory. Solo5 includes the stack, so the application must leave room
    /// for it.
    heap_size: usize,
}

unsafe extern "C" {
    /// Defined by the application.
    safe fn solo5_app_main(info: &StartInfo) -> c_int;
}

/// Entry of the application, called by the bindings after initialization.
pub(crate) fn main(start: &Start) -> ExitStatus {
    guard::set();
    // As in Solo5, the base is invalid at first, so that either library detects an application that
    // forgets to set it.
    // SAFETY: No code here uses thread-local variables, and C code must set a base first.
    let _ = unsafe { tls::set_raw_thread_pointer(0) };
    let heap_start = start.heap.start;
    let info = StartInfo {
        cmdline: start.command_line.as_ptr(),
        heap_start,
        heap_size: start.memory_size.saturating_sub(heap_start),
    };
    ExitStatus(solo5_app_main(&info))
}

#[unsafe(no_mangle)]
extern "C" fn solo5_exit(status: c_int) -> ! {
    exit(ExitStatus(status))
}

#[unsafe(no_mangle)]
extern "C" fn solo5_abort() -> ! {
    abort("the application called solo5_abort()")
}
