//! Boots a Redox kernel with a first process of our own, by PVH, as QEMU's `-kernel` does, or from GRUB by Multiboot2.
//!
//! The first module (`-initrd`) is a cpio archive with two files, `kernel` and `init`; what stands between blanks of the
//! command line (`-append`) becomes a line of the kernel's environment. The loader copies both files to free memory, maps the kernel where it wants to lie,
//! and jumps to its entry point.
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

/// The kernel reads its environment and memory map there.
static mut ENVIRONMENT: [u8; 4096] = [0; 4096];
static mut AREAS: [Area; handover::AREAS_MAX] = [Area { block: NOTHING, kind: 0 }; handover::AREAS_MAX];
static mut ARGS: KernelArgs =
    KernelArgs { kernel: NOTHING, stack: NOTHING, env: NOTHING, hwdesc: NOTHING, areas: NOTHING, bootstrap: NOTHING };
const NOTHING: Block = Block { base: 0, size: 0 };

/// Why the kernel cannot be booted.
enum Error {
    Boot(BootError),
    NoArchive,
    Pack(PackError),
    NoRoom(NoRoom),
    TooLarge(TooLarge),
    CommandLine,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot(error) => error.fmt(f),
            Self::NoArchive => f.write_str("there is no archive (-initrd)"),
            Self::Pack(error) => error.fmt(f),
            Self::NoRoom(error) => error.fmt(f),
            Self::TooLarge(error) => error.fmt(f),
            Self::CommandLine => f.write_str("the command line (-append) is too long"),
        }
    }
}

/// First Rust code to run: in long mode, interrupts off, memory mapped at its physical address.
extern "C" fn load(magic: u32, information: u32) -> ! {
    // SAFETY: memory is mapped at its physical address; nothing but statics of this program has been written. The entry
    // code calls this once.
    let Err(error) = unsafe {
        hvt_boot::read(magic, information, physical, |boot| {
            boot.map_err(Error::Boot).and_then(|boot| boot_kernel(&boot))
        })
    };
    fail(&error)
}

/// Does everything; comes back only if it cannot be done.
///
/// # Safety
/// Called once.
unsafe fn boot_kernel(boot: &Boot<'_>) -> Result<core::convert::Infallible, Error> {
    let archive = boot.modules.first().ok_or(Error::NoArchive)?;
    let pack = Pack::read(physical(archive.start, archive.len() as usize)).map_err(Error::Pack)?;
    let entry = pack.kernel_entry().map_err(Error::Pack)?;
    let limit = (start::GIGABYTES as u64) << 30;
    let places = handover::place(boot, loader(), limit, pack.kernel.len(), pack.init.len()).map_err(Error::NoRoom)?;
    // SAFETY: both lie in memory that is free, mapped, and used by nobody else.
    unsafe {
        fill(places.kernel, pack.kernel);
        fill(places.init, pack.init);
    }
    // SAFETY: this function is called once.
    unsafe { start::map_kernel_with(|tables| tables::map_kernel(places.kernel, tables)) }.map_err(Error::TooLarge)?;
    let (environment, areas, args) = (&raw mut ENVIRONMENT, &raw mut AREAS, &raw mut ARGS);
    // SAFETY: as above; nothing refers to these statics before the kernel reads them.
    let (environment, areas, args) = unsafe { (&mut *environment, &mut *areas, &mut *args) };
    let env_size = handover::environment(boot.command_line, environment).ok_or(Error::CommandLine)?;
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
    // SAFETY: the kernel is mapped where it wants to lie, and finds what it expects at its entry; it comes with a stack
    // of its own and never returns.
    unsafe { asm!("jmp {entry}", entry = in(reg) entry, in("rdi") args, options(noreturn)) }
}

/// Copies `file` to `place`, the rest of which becomes zeros.
///
/// # Safety
/// It is free memory, as long as the file at least.
unsafe fn fill(place: Block, file: &[u8]) {
    let start = core::ptr::with_exposed_provenance_mut::<u8>(place.base as usize);
    // SAFETY: the caller's promise; memory is mapped at its physical address.
    unsafe {
        start.copy_from_nonoverlapping(file.as_ptr(), file.len());
        start.add(file.len()).write_bytes(0, place.size as usize - file.len());
    }
}

/// ACPI's root pointer: 20 bytes, or as many as its newer form says (ACPI 5.2.5.3).
fn root_pointer(boot: &Boot<'_>) -> Block {
    const SHORT: usize = 20;
    const REVISION: usize = 15;
    let Some(base) = boot.rsdp else { return NOTHING };
    let bytes = physical(base, SHORT + size_of::<u32>());
    let (short, length) = bytes.split_at(SHORT);
    let long = length.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
    Block { base, size: if short[REVISION] < 2 { SHORT as u64 } else { long.into() } }
}

/// Where the loader lies.
fn loader() -> PhysicalRange {
    unsafe extern "C" {
        // Symbols of the linker script.
        static loader_start: u8;
        static loader_end: u8;
    }
    PhysicalRange { start: (&raw const loader_start).addr() as u64, end: (&raw const loader_end).addr() as u64 }
}

/// The bytes at a physical address: memory that a boot loader or the firmware filled.
fn physical(address: u64, len: usize) -> &'static [u8] {
    if len == 0 {
        // There may be no address then.
        return &[];
    }
    let pointer = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: memory is mapped at its physical address, as far as boot loaders use it; any byte pattern is a u8; the
    // loader writes to free memory and its own statics only.
    unsafe { core::slice::from_raw_parts(pointer, len) }
}

/// Says why, and ends QEMU with status 2 (`isa-debug-exit` at 0xf4 makes 2n+1 of n, so 5 there).
fn fail(error: &dyn fmt::Display) -> ! {
    const COM1: u16 = 0x3f8;
    const QEMU_DEBUG_EXIT: u16 = 0xf4;
    // SAFETY: the port belongs to the first serial line on every PC, and nobody else uses it.
    if let Ok(mut uart) = unsafe { Uart16550::<PioBackend>::new_port(COM1) }
        && uart.init(Config::default()).is_ok()
    {
        // A serial line takes everything.
        let _ = writeln!(Serial(uart), "loader: {error}");
    }
    // SAFETY: without that device behind it the port does nothing.
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
