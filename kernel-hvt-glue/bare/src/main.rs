//! The smallest kernel that can host `kernel-hvt-glue`: runs unikernels in an emulator, with no operating system.
#![no_std]
#![no_main]

extern crate alloc;

mod apic;
mod clock;
mod console;
mod cost;
mod cpu;
mod guests;
mod host;
mod interrupts;
mod mem;
mod memory;
mod pack;
mod power;
mod probes;
mod ram;
mod sleep;
mod smp;
mod start;
mod suite;
mod unikernel;

use alloc::{format, string::String};
use core::{fmt, panic::PanicInfo};

use hvt_bare::{
    boot::{self, Boot, BootError},
    options::Options,
};
use kernel_hvt_glue::Hypervisor;
use multiboot2::{BootInformation, BootInformationHeader};

use crate::{
    clock::Clock,
    console::{CONSOLE, Console, println},
    host::Kernel,
    memory::Usage,
    pack::Pack,
    power::Outcome,
    probes::{Answer, Context, PROBES, Verdict},
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
        Err(error) => fail(&error),
    };
    let frequency = Clock::get().frequency();
    let before = Usage::now();
    let cpus = if smp::is_there() { "2 CPUs" } else { "1 CPU" };
    println!("bare: {cpus}, TSC at {} kHz, {} free frames", frequency / 1000, before.free_frames);
    let mut tally = Tally::default();
    // SAFETY: CPL 0.
    let hypervisor = match unsafe { Hypervisor::new(Kernel) } {
        Ok(hypervisor) => hypervisor,
        Err(error) => fail(&error),
    };
    // SAFETY: CPL 0, 64-bit mode, and nothing here goes to another CPU.
    let mut cpu = match unsafe { hypervisor.enable() } {
        Ok(cpu) => cpu,
        Err(error) => fail(&error),
    };
    let mut context = Context { hypervisor: &hypervisor, cpu: &mut cpu };
    if options.probes {
        for probe in PROBES.iter().copied().flatten() {
            tally.add("probe", probe.name, (probe.run)(&mut context));
        }
    }
    let archives = boot.modules.iter().map(|module| physical(module.start, module.len() as usize));
    let pack = Pack::new(archives);
    if options.suite {
        suite::run(&mut context, &pack, |name, answer| tally.add("case", name, answer));
        tally.add(
            "check",
            "interleaved",
            both(&pack, "fpu", "heap")
                .and_then(|files| guests::interleave(&mut context, files))
                .map(|()| Verdict::Passed),
        );
    }
    if options.guests {
        for (name, file) in pack.guests() {
            tally.add("guest", name, guests::run(&mut context, name, file).map(|()| Verdict::Passed));
        }
    }
    if options.cycles > 0 {
        let file = pack.suite("hello").ok_or("there is no guest hello in the pack".into());
        tally.add(
            "check",
            "cycles",
            file.and_then(|file| guests::cycle(&mut context, file, options.cycles)).map(|()| Verdict::Passed),
        );
    }
    if options.cost {
        tally.add("cost", "figures", cost::print(&mut context).map(|()| Verdict::Passed));
    }
    drop(pack);
    drop(cpu);
    drop(hypervisor);
    let after = Usage::now();
    tally.add(
        "memory",
        "all of it back",
        if before == after { Ok(Verdict::Passed) } else { Err(format!("{before:?}, then {after:?}")) },
    );
    println!("bare: {tally}");
    power::off(if tally.failed == 0 { Outcome::Passed } else { Outcome::Failed })
}

/// Two guests of the conformance table.
fn both<'a>(pack: &Pack<'a>, first: &str, second: &str) -> Result<[&'a [u8]; 2], String> {
    let find = |name| pack.suite(name).ok_or_else(|| format!("there is no guest {name} in the pack"));
    Ok([find(first)?, find(second)?])
}

/// How many checks held.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    /// Counts and prints a result.
    fn add(&mut self, kind: &str, name: &str, answer: Answer) {
        match answer {
            Ok(Verdict::Passed) => {
                self.passed += 1;
                println!("bare: {kind} {name}: ok");
            }
            Ok(Verdict::Skipped(reason)) => {
                self.skipped += 1;
                println!("bare: {kind} {name}: SKIPPED: {reason}");
            }
            Err(error) => {
                self.failed += 1;
                println!("bare: {kind} {name}: FAILED: {error}");
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped, {} timer interrupts", interrupts::ticks())
    }
}

/// Ends for a reason that leaves nothing to run.
fn fail(error: &dyn fmt::Display) -> ! {
    println!("bare: {error}");
    power::off(Outcome::Failed)
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
