//! The smallest kernel that can host `kernel-hvt-glue`: runs unikernels in an emulator, with no operating system.
//!
//! | module | what is in it |
//! |---|---|
//! | `start`, `smp` | the way into long mode, for the boot CPU and for the second one |
//! | `cpu`, `interrupts`, `apic` | descriptor tables, exceptions, timers, NMIs |
//! | `memory` | frames and heap |
//! | `console`, `clock`, `power` | the rest of the machine |
//! | `host` | this kernel as the hypervisor sees it: its `Host` |
//! | `ram`, `sleep`, `unikernel` | a guest: the tender's rooms between `memory` and the hypervisor's exits |
//! | `checks` | what is run: `probes`, `suite`, `guests`, `cost` |
#![no_std]
#![no_main]

extern crate alloc;

mod apic;
mod checks;
mod clock;
mod console;
mod cost;
mod cpu;
mod guests;
mod host;
mod interrupts;
mod memory;
mod power;
mod probes;
mod ram;
mod sleep;
mod smp;
mod start;
mod suite;
mod unikernel;

use core::panic::PanicInfo;

use hvt_bare::options::Options;
use hvt_boot::Boot;
use hvt_harness::pack::Pack;

use crate::{
    console::{CONSOLE, Console, println},
    power::Outcome,
};

/// First Rust code to run: on the boot CPU, in long mode, interrupts off, memory mapped at its physical address.
extern "C" fn kernel_main(magic: u32, information: u32) -> ! {
    *CONSOLE.lock() = Console::find();
    // SAFETY: memory is mapped at its physical address; nothing but statics of this program has been written.
    unsafe {
        hvt_boot::read(magic, information, physical, |boot| match boot {
            Ok(boot) => {
                // `boot` refers to the command line and modules only, which no loader puts in the null page. This is the
                // one call of `run`.
                start::unmap_guards();
                run(&boot)
            }
            Err(error) => {
                println!("bare: {error}");
                power::off(Outcome::Panicked)
            }
        })
    }
}

/// Sets up the machine and does what the command line says.
///
/// # Safety
/// Called once; `boot` is what the boot loader said.
unsafe fn run(boot: &Boot<'_>) -> ! {
    // SAFETY: the caller's promise; interrupts are off since the entry; the boot loader has left its structures elsewhere
    // than where the second CPU starts.
    unsafe {
        cpu::init(0);
        memory::init(boot);
        interrupts::start_timer();
        interrupts::enable();
        smp::start();
    }
    let options = match Options::parse(boot.command_line) {
        Ok(options) => options,
        Err(error) => {
            println!("bare: {error}");
            power::off(Outcome::Failed)
        }
    };
    let cpus = if smp::is_there() { "2 CPUs" } else { "1 CPU" };
    println!("bare: {cpus}, TSC at {} kHz", clock::get().frequency() / 1000);
    let archives = boot.modules.iter().map(|module| physical(module.start, module.len() as usize));
    let passed = checks::run(&options, &Pack::new(archives));
    power::off(if passed { Outcome::Passed } else { Outcome::Failed })
}

/// The bytes at a host-physical address: memory that a boot loader filled.
fn physical(address: u64, len: usize) -> &'static [u8] {
    if len == 0 {
        // There may be no address then.
        return &[];
    }
    let pointer = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: the first 4 GiB are mapped at their physical address, and loaders stay below; any byte pattern is a u8;
    // the frame allocator hands out nothing that a loader filled.
    unsafe { core::slice::from_raw_parts(pointer, len) }
}

hvt_boot::memory_functions!();

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // SAFETY: the holder, if any, is the code that panicked: it will not go on.
    unsafe { CONSOLE.force_unlock() };
    println!("bare: {info}");
    power::off(Outcome::Panicked)
}
