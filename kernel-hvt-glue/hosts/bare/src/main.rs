//! The smallest kernel that can host `kernel-hvt-glue`: runs unikernels in an emulator, with no
//! operating system.
//!
//! | module | contents |
//! |---|---|
//! | `start`, `smp` | switch to long mode on the boot CPU and on the second CPU |
//! | `cpu`, `interrupts`, `apic` | descriptor tables, exceptions, timers, NMIs |
//! | `memory` | frames and heap |
//! | `console`, `clock`, `power` | other devices of the machine |
//! | `host` | implementation of the hypervisor's `Host` trait |
//! | `ram`, `sleep`, `unikernel` | guests: the tender's traits on top of memory and exits |
//! | `checks` | list of checks: `probes`, `suite`, `guests`, `cost` |
#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]
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

/// First Rust code to run: on the boot CPU, in long mode, with interrupts off and memory mapped at
/// its physical address.
extern "C" fn kernel_main(magic: u32, information: u32) -> ! {
    *CONSOLE.lock() = Console::find();
    // SAFETY: memory is mapped at its physical address; only statics of this program have been
    // written.
    unsafe {
        hvt_boot::read(magic, information, physical, |boot| match boot {
            Ok(boot) => {
                // `boot` refers only to the command line and the modules, and no loader puts those
                // in the null page. `run` is called only here.
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

/// Sets up the machine and runs the checks that the command line selects.
///
/// # Safety
/// Must be called once, with the information of the boot loader in `boot`.
unsafe fn run(boot: &Boot<'_>) -> ! {
    // SAFETY: guaranteed by the caller; interrupts are off since the entry; the boot loader has
    // left no structures in the page where the second CPU starts.
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

/// Returns the bytes at a host-physical address: memory that a boot loader filled.
fn physical(address: u64, len: usize) -> &'static [u8] {
    if len == 0 {
        // The address may be invalid then.
        return &[];
    }
    let pointer = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: the first 4 GiB are mapped at their physical address, and loaders stay below; any
    // byte pattern is a u8; the frame allocator hands out no memory that a loader filled.
    unsafe { core::slice::from_raw_parts(pointer, len) }
}

hvt_boot::memory_functions!();

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // SAFETY: the lock's holder, if any, is the code that panicked, and it does not resume.
    unsafe { CONSOLE.force_unlock() };
    println!("bare: {info}");
    power::off(Outcome::Panicked)
}
