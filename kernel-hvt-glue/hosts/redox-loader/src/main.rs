//! Boots a Redox kernel with a custom first process, by PVH, as QEMU's `-kernel` does, or from GRUB
//! by Multiboot2.
//!
//! The first module (`-initrd`) is a cpio archive with two files, `kernel` and `init`. Each word of
//! the command line (`-append`) becomes a line of the kernel's environment. The loader copies both
//! files to free memory, maps the kernel at its linked address, and jumps to its entry point.
#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]
#![no_std]
#![no_main]

mod start;

use core::{arch::asm, fmt, fmt::Write, panic::PanicInfo};

use hvt_boot::{Boot, BootError, PhysicalRange};
use hvt_redox_loader::{
    handover::{self, Area, Block, KernelArgs, NoRoom},
    pack::{Pack, PackError},
    tables::{self, TooLarge},
};
use uart_16550::{Config, Uart16550, backend::PioBackend};
use x86_64::instructions::{hlt, port::PortWriteOnly};

/// Data that the kernel reads: environment, memory map and arguments.
static mut ENVIRONMENT: [u8; 4096] = [0; 4096];
static mut AREAS: [Area; handover::AREAS_MAX] = [Area { block: NOTHING, kind: 0 }; handover::AREAS_MAX];
static mut ARGS: KernelArgs =
    KernelArgs { kernel: NOTHING, stack: NOTHING, env: NOTHING, hwdesc: NOTHING, areas: NOTHING, bootstrap: NOTHING };
const NOTHING: Block = Block { base: 0, size: 0 };

/// Reason that the kernel cannot be booted.
enum LoaderError {
    Boot(BootError),
    NoArchive,
    Pack(PackError),
    NoRoom(NoRoom),
    TooLarge(TooLarge),
    CommandLine,
}

impl fmt::Display for LoaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot(error) => error.fmt(f),
            Self::NoArchive => f.write_str("no archive: pass one with -initrd"),
            Self::Pack(error) => error.fmt(f),
            Self::NoRoom(error) => error.fmt(f),
            Self::TooLarge(error) => error.fmt(f),
            Self::CommandLine => f.write_str("the command line (-append) is too long for the kernel's environment"),
        }
    }
}

/// First Rust code to run: in long mode, with interrupts off and memory mapped at its physical
/// address.
extern "C" fn load(magic: u32, information: u32) -> ! {
    // SAFETY: memory is mapped at its physical address; only statics of this program have been
    // written. The entry code calls this function once.
    let Err(error) = unsafe {
        hvt_boot::read(magic, information, physical, |boot| {
            boot.map_err(LoaderError::Boot).and_then(|boot| boot_kernel(&boot))
        })
    };
    fail(&error)
}

/// Boots the kernel. Returns only on an error.
///
/// # Safety
/// Must be called once.
unsafe fn boot_kernel(boot: &Boot<'_>) -> Result<core::convert::Infallible, LoaderError> {
    let archive = boot.modules.first().ok_or(LoaderError::NoArchive)?;
    let pack = Pack::read(physical(archive.start, archive.len() as usize)).map_err(LoaderError::Pack)?;
    let entry = pack.kernel_entry().map_err(LoaderError::Pack)?;
    let limit = (start::GIGABYTES as u64) << 30;
    let places =
        handover::place(boot, loader(), limit, pack.kernel.len(), pack.init.len()).map_err(LoaderError::NoRoom)?;
    // SAFETY: both lie in memory that is free, mapped, and not used by other code.
    unsafe {
        fill(places.kernel, pack.kernel);
        fill(places.init, pack.init);
    }
    // SAFETY: this function is called once.
    unsafe { start::map_kernel_with(|tables| tables::map_kernel(places.kernel, tables)) }
        .map_err(LoaderError::TooLarge)?;
    let (environment, areas, args) = (&raw mut ENVIRONMENT, &raw mut AREAS, &raw mut ARGS);
    // SAFETY: as above; no other code refers to these statics before the kernel reads them.
    let (environment, areas, args) = unsafe { (&mut *environment, &mut *areas, &mut *args) };
    let env_size = handover::environment(boot.command_line, environment).ok_or(LoaderError::CommandLine)?;
    let told = handover::areas(boot, loader());
    areas[..told.len()].copy_from_slice(&told);
    *args = KernelArgs {
        kernel: places.kernel,
        stack: NOTHING,
        env: Block { base: environment.as_ptr().addr() as u64, size: env_size as u64 },
        hwdesc: root_pointer(boot),
        areas: Block { base: areas.as_ptr().addr() as u64, size: size_of_val(&told[..]) as u64 },
        bootstrap: places.init,
    };
    // SAFETY: the kernel is mapped at its linked address and finds the structures that it expects;
    // it brings its own stack and never returns.
    unsafe { asm!("jmp {entry}", entry = in(reg) entry, in("rdi") args, options(noreturn)) }
}

/// Copies `file` to `place` and fills the remaining bytes with zeros.
///
/// # Safety
/// `place` must be free memory, at least as long as the file.
unsafe fn fill(place: Block, file: &[u8]) {
    let start = core::ptr::with_exposed_provenance_mut::<u8>(place.base as usize);
    // SAFETY: guaranteed by the caller; memory is mapped at its physical address.
    unsafe {
        start.copy_from_nonoverlapping(file.as_ptr(), file.len());
        start.add(file.len()).write_bytes(0, place.size as usize - file.len());
    }
}

/// Returns ACPI's root pointer: 20 bytes, or the length field of revision 2 (ACPI 5.2.5.3).
fn root_pointer(boot: &Boot<'_>) -> Block {
    const SHORT: usize = 20;
    const REVISION: usize = 15;
    let Some(base) = boot.rsdp else { return NOTHING };
    let bytes = physical(base, SHORT + size_of::<u32>());
    let (short, length) = bytes.split_at(SHORT);
    let long = length.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
    Block { base, size: if short[REVISION] < 2 { SHORT as u64 } else { long.into() } }
}

/// Returns the physical range of the loader.
fn loader() -> PhysicalRange {
    unsafe extern "C" {
        // Symbols defined by the linker script.
        static loader_start: u8;
        static loader_end: u8;
    }
    PhysicalRange { start: (&raw const loader_start).addr() as u64, end: (&raw const loader_end).addr() as u64 }
}

/// Returns the bytes at a physical address: memory that a boot loader or the firmware filled.
fn physical(address: u64, len: usize) -> &'static [u8] {
    if len == 0 {
        // The address may be invalid then.
        return &[];
    }
    let pointer = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: the part of memory that boot loaders use is mapped at its physical address; any byte
    // pattern is a u8; the loader writes only to free memory and its own statics.
    unsafe { core::slice::from_raw_parts(pointer, len) }
}

/// Prints the error and ends QEMU with status 2 (`isa-debug-exit` at 0xf4 turns n into 2n+1, so 5
/// here).
fn fail(error: &dyn fmt::Display) -> ! {
    const COM1: u16 = 0x3f8;
    const QEMU_DEBUG_EXIT: u16 = 0xf4;
    // SAFETY: the port belongs to the first serial line on every PC, and no other code uses it.
    if let Ok(mut uart) = unsafe { Uart16550::<PioBackend>::new_port(COM1) }
        && uart.init(Config::default()).is_ok()
    {
        // Writing to a serial line cannot fail.
        let _ = writeln!(Serial(uart), "loader: {error}");
    }
    // SAFETY: without that device the port has no effect.
    unsafe { PortWriteOnly::<u32>::new(QEMU_DEBUG_EXIT).write(2) };
    loop {
        hlt();
    }
}

struct Serial(Uart16550<PioBackend>);

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.send_bytes_exact(text.as_bytes());
        Ok(())
    }
}

hvt_boot::memory_functions!();

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(&format_args!("{info}"))
}
