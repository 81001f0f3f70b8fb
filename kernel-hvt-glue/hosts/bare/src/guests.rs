//! Unikernels outside the conformance table, and checks that run any unikernel.

use alloc::{boxed::Box, format, string::String, vec::Vec};

use hvt_harness::{
    monitor::Config,
    suite::{Guest, Machine, Patience, Wires, plain_devices},
};

use crate::{
    clock,
    console::{CONSOLE, println},
    host::{self, Context},
    interrupts::{self, TIMER_HZ},
    memory::Usage,
    sleep::Sleeper,
    unikernel::Unikernel,
};

/// Timer ticks after which a guest times out: five minutes.
const LIMIT: u64 = 300 * TIMER_HZ as u64;
/// Guest memory in bytes.
const MEMORY: u64 = 64 << 20;
/// Guest memory in bytes of a guest that does little.
const SMALL_MEMORY: u64 = 2 << 20;

/// Runs a unikernel with a zero-filled disk for each block device in its manifest and a loopback
/// wire for each network device. Its console output goes to the kernel's console.
///
/// # Errors
/// Returns a message if the unikernel does not exit with status 0.
pub(crate) fn run(context: &mut Context<'_>, name: &str, file: &[u8]) -> Result<(), String> {
    let (slots, wires) = plain_devices(file)?;
    let before = interrupts::ticks();
    let guest = Guest { memory: MEMORY, arguments: &[], slots, wires, patience: Patience::Long };
    let ran = context.run(file, guest)?;
    CONSOLE.lock().write_bytes(&ran.transcript);
    println!("bare: guest {name}: {}, {}, {} timer interrupts", ran.outcome, ran.counts, interrupts::ticks() - before);
    if ran.outcome.is_success() { Ok(()) } else { Err(format!("{}", ran.outcome)) }
}

/// Loads a unikernel without devices or arguments.
fn load(context: &Context<'_>, file: &[u8], memory: u64) -> Result<Unikernel, String> {
    let deadline = interrupts::ticks() + LIMIT;
    let config = Config {
        arguments: &[],
        slots: Vec::new(),
        clock: Box::new(clock::get()),
        poller: Box::new(Sleeper::new(Wires::default(), deadline)),
        cycle_frequency: clock::get().frequency(),
    };
    Unikernel::load(context.hypervisor, file, memory, config, deadline)
}

/// Creates, runs and destroys a unikernel `count` times. Memory usage must be the same after each
/// round.
///
/// # Errors
/// Returns a message if the unikernel does not exit with status 0, or if memory leaks.
pub(crate) fn cycle(context: &mut Context<'_>, file: &[u8], count: u32) -> Result<(), String> {
    let before = Usage::now();
    let (mut exits, ticks) = (0, interrupts::ticks());
    for round in 0..count {
        let mut guest = load(context, file, SMALL_MEMORY)?;
        let outcome = guest.run(context.cpu)?;
        if !outcome.is_success() {
            return Err(format!("round {round}: {outcome}"));
        }
        exits += guest.counts().total();
        drop(guest);
        if Usage::now() != before {
            return Err(format!("round {round}: {before:?}, then {:?}", Usage::now()));
        }
    }
    let ticks = interrupts::ticks() - ticks;
    println!(
        "bare: {count} cycles: {exits} exits, {ticks} timer interrupts, {} frames free before",
        before.free_frames
    );
    println!("bare: {count} cycles: {} frames free after", Usage::now().free_frames);
    Ok(())
}

/// Runs two unikernels in turns on this CPU. A turn ends with a timer tick or a hypercall.
///
/// # Errors
/// Returns a message if one of the unikernels does not exit with status 0.
pub(crate) fn interleave(context: &mut Context<'_>, files: [&[u8]; 2]) -> Result<(), String> {
    let mut running = [Some(load(context, files[0], MEMORY / 2)?), Some(load(context, files[1], MEMORY / 2)?)];
    let (mut turns, mut last) = (0, usize::MAX);
    while running.iter().any(Option::is_some) {
        for (index, slot) in running.iter_mut().enumerate() {
            let Some(guest) = slot else { continue };
            host::set_time_slice(1);
            turns += u64::from(last != index);
            last = index;
            match guest.step(context.cpu)? {
                None => {}
                Some(outcome) if outcome.is_success() => *slot = None,
                Some(outcome) => {
                    return Err(format!("guest {index}: {outcome}\n{}", String::from_utf8_lossy(&guest.transcript())));
                }
            }
        }
    }
    println!("bare: two guests at once: {turns} turns");
    Ok(())
}
