//! Start and end.

use core::ffi::{c_char, c_int};

use guest_bindings::{ExitStatus, Start, abort, exit, tls};

use crate::guard;

/// `struct solo5_start_info`.
#[repr(C)]
struct StartInfo {
    cmdline: *const c_char,
    heap_start: usize,
    /// Up to the end of memory: Solo5 counts the stack in, and has the application find its own way between both.
    heap_size: usize,
}

unsafe extern "C" {
    /// Defined by the application.
    safe fn solo5_app_main(info: &StartInfo) -> c_int;
}

/// What the bindings call once they are ready.
pub(crate) fn main(start: &Start) -> ExitStatus {
    guard::set();
    // As in Solo5, so that an application that forgets to set a base is found out with either library.
    // SAFETY: No code here has thread-local variables; C's is told to set a base first.
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
