//! The smallest kernel that can host `kernel-hvt-glue`: runs unikernels in an emulator, with no operating system.
#![no_std]
#![no_main]

mod console;
mod mem;
mod power;
mod start;

use core::panic::PanicInfo;

use hvt_bare::boot::{self, Boot, BootError};
use multiboot2::{BootInformation, BootInformationHeader};

use crate::{
    console::{CONSOLE, Console, println},
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
            unsafe { start::unmap_guards() };
            run(&boot)
        }
        Err(error) => {
            println!("bare: {error}");
            power::off(Outcome::Panicked)
        }
    }
}

fn run(boot: &Boot<'_>) -> ! {
    println!("bare: command line {:?}", boot.command_line);
    for range in &boot.memory {
        println!("bare: memory {:#x}..{:#x}", range.start, range.end);
    }
    for range in &boot.modules {
        println!("bare: module {:#x}..{:#x}", range.start, range.end);
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
