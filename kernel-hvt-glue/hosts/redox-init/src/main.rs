//! First process for a Redox kernel that runs unikernels on the kernel's hypervisor. It uses no
//! libc and no file system, and implements the tender's traits with a dozen system calls.
//!
//! | module | contents |
//! |---|---|
//! | `start` | entry code |
//! | `sys`, `fd`, `memory`, `thread` | system calls and the resources they allocate |
//! | `console`, `clock`, `power` | other devices of the machine |
//! | `hypervisor`, `unikernel` | a guest: the tender's backend and traits on top of these calls |
//! | `suite`, `guests`, `checks`, `hostile`, `watch`, `cost` | checks |
#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]
#![no_std]
#![no_main]

extern crate alloc;

mod checks;
mod clock;
mod console;
mod cost;
mod fd;
mod guests;
mod hostile;
mod hypervisor;
mod memory;
mod power;
mod start;
mod suite;
mod sys;
mod thread;
mod unikernel;
mod watch;

use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
};
use core::panic::PanicInfo;

use hvt_harness::{pack::Pack, tally::Tally};
use hvt_redox_init::options::Options;

use crate::{
    console::println,
    fd::{Fd, Scheme},
    guests::Usage,
    power::Outcome,
    suite::Runner,
};

/// First Rust code to run.
extern "C" fn main() -> ! {
    if memory::init_heap().is_err() {
        console::print_last_words(format_args!("not enough memory for the heap"));
        power::off(Outcome::Panicked);
    }
    power::off(match run() {
        Ok(true) => Outcome::Passed,
        Ok(false) => Outcome::Failed,
        Err(error) => {
            println!("{error}");
            Outcome::Panicked
        }
    })
}

/// Runs the checks that the kernel's command line selects. Returns `true` if all passed.
fn run() -> Result<bool, String> {
    let environment = environment().map_err(|errno| format!("cannot read the kernel's environment: {errno}"))?;
    let options = Options::parse(&environment).map_err(|error| error.to_string())?;
    clock::init(options.time);
    println!("TSC at {} kHz", clock::get().frequency() / 1000);
    // SAFETY: the program that appended the archive to this file also passed its length.
    let archive = unsafe { archive(options.pack) };
    let pack: &'static Pack<'static> = Box::leak(Box::new(Pack::new([archive].into_iter())));
    let mut tally = Tally::new(|line| println!("{line}"));
    match Runner::new() {
        Ok(mut runner) => each(&options, pack, &mut runner, &mut tally)?,
        Err(error) => tally.add_result("check", "hypervisor", Err(error)),
    }
    println!("{tally}");
    Ok(tally.all_held())
}

fn each(options: &Options, pack: &'static Pack<'static>, runner: &mut Runner, tally: &mut Tally) -> Result<(), String> {
    println!("hypervisor: {:?}", runner.capabilities);
    let before = Usage::now(runner)?;
    if options.suite {
        hvt_harness::suite::run(runner, pack, tally);
    }
    if options.checks {
        checks::run(runner, pack, tally);
    }
    if options.guests {
        for (name, file) in pack.guests() {
            tally.add_result("guest", name, guests::run(runner, name, file));
        }
    }
    if options.cycles > 0 {
        tally.add_result("check", "cycles", guests::cycle(runner, pack, options.cycles));
    }
    if options.cost {
        tally.add_result("check", "cost", cost::print(runner, pack));
    }
    let after = Usage::now(runner)?;
    println!("{} frames free before, {} after", before.free_frames, after.free_frames);
    Ok(())
}

/// Returns the archive with the unikernels: the `len` bytes after this program.
///
/// # Safety
/// An archive of this length must follow the program.
unsafe fn archive(len: usize) -> &'static [u8] {
    unsafe extern "C" {
        // Symbol of the linker script: the first byte after the program.
        static image_end: u8;
    }
    // SAFETY: guaranteed by the caller; the archive is never unmapped or written.
    unsafe { core::slice::from_raw_parts(&raw const image_end, len) }
}

/// Returns the kernel's environment, which was its command line.
fn environment() -> sys::Result<String> {
    let mut bytes = [0; 4096];
    let read = Fd::open(Scheme::Sys, "env")?.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..read]).into_owned())
}

hvt_boot::memory_functions!();

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::print_last_words(format_args!("{info}"));
    power::off(Outcome::Panicked)
}
