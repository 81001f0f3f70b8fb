//! From the tender's hand to the guest's `main`, and what the compiler expects of a program without a standard library.

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

/// The ELF entry point. The tender enters it as if it called it, on the stack at the top of memory.
///
/// # Safety
///
/// For the tender alone: the CPU is in the architecture's entry state ([`hvt_abi::x86_64::EntryState`], on aarch64
/// [`hvt_abi::aarch64`]), and `boot` as [`BootInfo`] says.
#[unsafe(no_mangle)]
unsafe extern "C" fn _start(boot: *const BootInfo) -> ! {
    // SAFETY: Nothing has run before, and the tender's promise.
    let start = unsafe {
        arch::install_exception_handlers();
        prepare(&*boot)
    };
    exit(__guest_main(&start))
}

/// Makes everything ready for the guest's `main`.
///
/// # Safety
///
/// Called once; `boot` and what it points to are the tender's, who never changes it.
unsafe fn prepare(boot: &BootInfo) -> Start {
    // SAFETY: The caller's promise.
    let (manifest, line) = unsafe {
        let manifest = manifest(ptr::with_exposed_provenance(boot.mft.0 as usize));
        (manifest, CStr::from_ptr(ptr::with_exposed_provenance(boot.cmdline.0 as usize)))
    };
    let line = command_line::parse(line);
    let Some(scale) = Scale::new(boot.cpu_cycle_freq) else {
        abort("the tender knows no frequency of the cycle counter")
    };

    // From bottom to top: what was linked, the first thread's variables, the heap, the stack.
    let tls_start = layout::end().next_multiple_of(tls::ALIGNMENT);
    let tls_size = tls::block_layout().size();
    let memory_size = boot.mem_size as usize;
    let Some(heap) = start::heap((tls_start + tls_size).next_multiple_of(PAGE_SIZE as usize), memory_size) else {
        abort(format_args!("{memory_size} bytes of memory are not enough"))
    };
    // SAFETY: The block is writable, nobody else's, and stays for good.
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
