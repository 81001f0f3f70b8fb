//! Start of the guest up to `main`, and the symbols that the compiler requires without a standard
//! library.

#![expect(unsafe_code, reason = "hypercalls, and memory that the tender writes")]

use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use core::{ptr, slice};

use hvt_abi::manifest::{Entry, Header};
use hvt_abi::{BootInfo, PAGE_SIZE};

use crate::boot::{self, Boot};
use crate::scale::Scale;
use crate::start::{self, Start};
use crate::{ExitStatus, abort, arch, command_line, exit, layout, println, ring, tls};

unsafe extern "Rust" {
    /// Defined by [`entry!`](crate::entry!).
    safe fn __guest_main(start: &Start) -> ExitStatus;
}

/// ELF entry point. The tender starts the guest here, as if it called the function, with the stack
/// at the top of memory.
///
/// # Safety
///
/// Only the tender may enter the guest here. The CPU must be in the entry state of the architecture
/// ([`hvt_abi::x86_64::EntryState`] or [`hvt_abi::aarch64::EntryState`]), and `boot` must satisfy
/// the description of [`BootInfo`].
#[unsafe(no_mangle)]
unsafe extern "C" fn _start(boot: *const BootInfo) -> ! {
    // SAFETY: This is the first code of the guest, and the tender guarantees the validity of
    // `boot`.
    let start = unsafe {
        arch::install_exception_handlers();
        prepare(&*boot)
    };
    exit(__guest_main(&start))
}

/// Prepares the environment of the guest's `main`.
///
/// # Safety
///
/// It must be called only once. `boot` and the memory that it points to must belong to the tender,
/// which never changes them.
unsafe fn prepare(boot: &BootInfo) -> Start {
    // SAFETY: Guaranteed by the caller.
    let (manifest, line) = unsafe {
        let manifest = manifest(ptr::with_exposed_provenance(boot.mft.0 as usize));
        (manifest, CStr::from_ptr(ptr::with_exposed_provenance(boot.cmdline.0 as usize)))
    };
    let line = command_line::parse(line);
    let Some(scale) = Scale::new(boot.cpu_cycle_freq) else {
        abort("the tender reports no frequency for the cycle counter")
    };

    // From low to high addresses: linked image, variables of the first thread, heap, stack.
    let tls_start = layout::end().next_multiple_of(tls::ALIGNMENT);
    let tls_size = tls::block_layout().size();
    let memory_size = boot.mem_size as usize;
    let Some(heap) = start::heap((tls_start + tls_size).next_multiple_of(PAGE_SIZE as usize), memory_size) else {
        abort(format_args!("{memory_size} bytes of memory are not enough"))
    };
    // SAFETY: The block is writable, has no other users, and is never freed.
    unsafe {
        let block = slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut::<MaybeUninit<u8>>(tls_start), tls_size);
        tls::set_thread_pointer(tls::init(block));
    }

    if !line.quiet {
        println!("hvt guest: {} KiB of memory, {} KiB of heap", memory_size >> 10, heap.len() >> 10);
    }
    boot::set(Boot {
        manifest,
        ring: ring::offered(boot),
        scale,
        #[cfg(feature = "alloc")]
        heap: heap.clone(),
    });
    Start { memory_size, heap, command_line: line.application }
}

/// # Safety
///
/// `header` must point to a manifest that never changes.
unsafe fn manifest(header: *const Header) -> &'static [Entry] {
    // SAFETY: Guaranteed by the caller.
    unsafe { slice::from_raw_parts(header.add(1).cast(), (*header).entries as usize) }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(at) => abort(format_args!("{at}: {}", info.message())),
        None => abort(info.message()),
    }
}

/// The `core` library is compiled with unwinding and references this symbol, although nothing
/// unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Referenced by the `core` library like [`rust_eh_personality`].
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    arch::stop()
}
