//! The smallest kernel that can host `kernel-hvt-glue`: runs unikernels in an emulator, with no operating system.
#![no_std]
#![no_main]

extern crate alloc;

mod clock;
mod console;
mod cpu;
mod interrupts;
mod mem;
mod memory;
mod power;
mod start;

use core::panic::PanicInfo;

use hvt_bare::boot::{self, Boot, BootError};
use multiboot2::{BootInformation, BootInformationHeader};

use crate::{
    clock::Clock,
    console::{CONSOLE, Console, println},
    memory::Usage,
    power::Outcome,
};

/// First Rust code to run: on the boot CPU, in long mode, interrupts off, memory mapped at its physical address.
extern "C" fn kernel_main(magic: u32, information: u32) -> ! {
    *CONSOLE.lock() = Console::find();
    let multiboot2;
    let boot = if magic == multiboot2::MAGIC {
        let information = information as *const BootInformationHeader;
        // SAFETY: the magic number says that a Multiboot2 loader left its information there.
        multiboot2 = unsafe { BootInformation::load(information) };
        multiboot2.as_ref().map_err(|_| BootError::Multiboot2).and_then(boot::from_multiboot2)
    } else {
        boot::from_pvh(information.into(), physical)
    };
    match boot {
        Ok(boot) => {
            // SAFETY: `boot` refers to the command line and modules only, which no loader puts in the null page.
            // This is the one call of `run`.
            unsafe {
                start::unmap_guards();
                run(&boot)
            }
        }
        Err(error) => {
            println!("bare: {error}");
            power::off(Outcome::Panicked)
        }
    }
}

/// Sets up the machine and does what the command line says.
///
/// # Safety
/// Called once; `boot` is what the boot loader said.
unsafe fn run(boot: &Boot<'_>) -> ! {
    cpu::enable_extended_state();
    // SAFETY: the caller's promise; interrupts are off since the entry.
    unsafe {
        memory::init(boot);
        interrupts::init();
    }
    let usage = Usage::now();
    let frequency = Clock::get().frequency();
    println!("bare: {} free frames, TSC at {} kHz, {:?}", usage.free_frames, frequency / 1000, boot.command_line);
    println!("{} {}", Clock::get().now(), interrupts::ticks());
    let v = alloc::vec![1u8; 100000];
    println!("{:?} {:?}", v.as_ptr(), Usage::now());
    if boot.command_line.contains("fault") {
        fn over(n: u64) -> u64 {
            if n == 0 { 0 } else { core::hint::black_box(over(core::hint::black_box(n + 1)) + n) }
        }
        println!("{}", over(5));
    }
    power::off(Outcome::Passed)
}

/// The bytes at a host-physical address: memory that a boot loader filled.
fn physical(address: u64, len: usize) -> &'static [u8] {
    let pointer = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: the first 4 GiB are mapped at their physical address, and loaders stay below; any byte pattern is a u8;
    // the frame allocator hands out nothing that a loader filled.
    unsafe { core::slice::from_raw_parts(pointer, len) }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // SAFETY: the holder, if any, is the code that panicked: it will not go on.
    unsafe { CONSOLE.force_unlock() };
    println!("bare: {info}");
    power::off(Outcome::Panicked)
}
