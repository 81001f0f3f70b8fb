//! From the tender's hand to the guest's `main`, and what the compiler expects of a program without a standard library.

use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use core::{ptr, slice};

use hvt_abi::BootInfo;
use hvt_abi::manifest::{Entry, Header};

use crate::boot::{self, Boot};
use crate::clock::Scale;
use crate::start::{self, StartInfo};
use crate::{ExitStatus, abort, arch, command_line, exit, layout, println, tls};

unsafe extern "Rust" {
    /// Defined by [`entry!`](crate::entry!).
    safe fn __guest_main(start: &StartInfo) -> ExitStatus;
}

/// The ELF entry point. The tender enters it as if it called it, on the stack at the top of memory.
///
/// # Safety
///
/// For the tender alone: the CPU is as [`hvt_abi::x86_64::EntryState`] says, and `boot` as [`BootInfo`] says.
#[unsafe(no_mangle)]
unsafe extern "C" fn _start(boot: *const BootInfo) -> ! {
    // SAFETY: Nothing has run before.
    unsafe { arch::install_exception_handlers() };
    // SAFETY: The tender's promise. What it wrote never changes.
    let boot = unsafe { &*boot };
    // SAFETY: Likewise.
    let manifest = unsafe { manifest(ptr::with_exposed_provenance(boot.mft.0 as usize)) };
    // SAFETY: Likewise.
    let line = unsafe { CStr::from_ptr(ptr::with_exposed_provenance(boot.cmdline.0 as usize)) };

    let Some(scale) = Scale::new(boot.cpu_cycle_freq) else {
        abort("the tender knows no frequency of the cycle counter")
    };
    boot::set(Boot { manifest, scale });
    let line = match line.to_str() {
        Ok(line) => command_line::parse(line),
        Err(error) => abort(format_args!("the command line is not UTF-8: {error}")),
    };

    let memory_size = boot.mem_size as usize;
    let tls = layout::end().next_multiple_of(tls::ALIGNMENT);
    let tls_size = tls::block_layout().size();
    let free = (tls + tls_size).next_multiple_of(hvt_abi::PAGE_SIZE as usize);
    let Some(heap) = start::heap(free, memory_size) else {
        abort(format_args!("{memory_size} bytes of memory are not enough"))
    };
    // SAFETY: The block lies behind the guest and below its heap, is nobody else's, and stays for good.
    unsafe {
        let block = slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut::<MaybeUninit<u8>>(tls), tls_size);
        tls::set_thread_pointer(tls::init(block));
    }

    if !line.quiet {
        println!("hvt guest: {} KiB of memory, {} KiB of heap", memory_size >> 10, heap.len() >> 10);
    }
    exit(__guest_main(&StartInfo {
        memory_size,
        heap_start: heap.start,
        heap_size: heap.len(),
        command_line: line.application,
    }))
}

/// # Safety
///
/// The manifest lies there and never changes.
unsafe fn manifest(header: *const Header) -> &'static [Entry] {
    // SAFETY: The caller's promise.
    unsafe { slice::from_raw_parts(header.add(1).cast(), (*header).entries as usize) }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(at) => abort(format_args!("{at}: {}", info.message())),
        None => abort(info.message()),
    }
}

/// The standard library's `core` is built for unwinding and names this, though nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Likewise.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    arch::stop()
}
