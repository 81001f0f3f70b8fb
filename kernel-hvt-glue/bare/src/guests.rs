//! Unikernels that are not in the conformance table, and what is done with any unikernel at all.

use alloc::{boxed::Box, format, string::String, vec, vec::Vec};

use hvt_bare::devices::{RamDisk, Wire, WireNet};
use hvt_tender::{device::Slot, image::DeviceKind};

use crate::{
    console::{CONSOLE, println},
    host,
    interrupts::{self, TIMER_HZ},
    memory::Usage,
    probes::Context,
    sleep::{Peers, Sleeper},
    unikernel::{self, Config, End, Unikernel},
};

/// Timer ticks after which a guest is given up: five minutes.
const LIMIT: u64 = 300 * TIMER_HZ as u64;
/// Guest memory in bytes.
const MEMORY: u64 = 64 << 20;
/// The same where a guest does not do much.
const SMALL_MEMORY: u64 = 2 << 20;
/// Size of a guest's disk in bytes.
const DISK: usize = 1 << 20;

/// Runs a unikernel with a disk of zeros for each block device it names, and a wire that leads back to itself for each
/// network device. Its console goes to the kernel's.
///
/// # Errors
/// It did not end with status 0.
pub(crate) fn run(context: &mut Context<'_>, name: &str, file: &[u8]) -> Result<(), String> {
    let mut wires = Vec::new();
    let mut slots = Vec::new();
    for (device, handle) in unikernel::manifest(file)?.devices().iter().zip(1u8..) {
        let slot = match device.kind {
            DeviceKind::Block => Slot::Block(Box::new(RamDisk::new(vec![0; DISK], 512))),
            DeviceKind::Net => {
                let wire = Wire::loopback();
                wires.push((handle.into(), wire.clone()));
                Slot::Net(Box::new(WireNet::new(wire, [0x02, 0, 0, 0, 0, handle], 1500)))
            }
        };
        slots.push((device.name.clone(), slot));
    }
    let sleeper = Sleeper::new(wires, Peers::default());
    let config = Config { memory: MEMORY, arguments: &[], slots, sleeper, ticks: LIMIT };
    let before = interrupts::ticks();
    let mut guest = Unikernel::load(context.hypervisor, file, config)?;
    let end = guest.run(context.cpu);
    CONSOLE.lock().write_bytes(&guest.transcript());
    println!("bare: guest {name}: {end}, {}, {} timer interrupts", guest.counts(), interrupts::ticks() - before);
    if end == End::Halted(0) { Ok(()) } else { Err(format!("{end}")) }
}

fn plain(ticks: u64) -> Config<'static> {
    Config { memory: SMALL_MEMORY, arguments: &[], slots: Vec::new(), sleeper: Sleeper::default(), ticks }
}

/// Creates, runs and destroys a unikernel `count` times: memory is the same after each.
///
/// # Errors
/// It did not end with status 0, or memory was lost.
pub(crate) fn cycle(context: &mut Context<'_>, file: &[u8], count: u32) -> Result<(), String> {
    let before = Usage::now();
    let (mut exits, ticks) = (0, interrupts::ticks());
    for round in 0..count {
        let mut guest = Unikernel::load(context.hypervisor, file, plain(LIMIT))?;
        let end = guest.run(context.cpu);
        if end != End::Halted(0) {
            return Err(format!("round {round}: {end}"));
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

/// Runs two unikernels at once on this CPU, a tick of the timer or a hypercall each in turn.
///
/// # Errors
/// One of them did not end with status 0.
pub(crate) fn interleave(context: &mut Context<'_>, files: [&[u8]; 2]) -> Result<(), String> {
    let load = |file| Unikernel::load(context.hypervisor, file, Config { memory: MEMORY / 2, ..plain(LIMIT) });
    let mut running = [Some(load(files[0])?), Some(load(files[1])?)];
    let (mut turns, mut last) = (0, usize::MAX);
    while running.iter().any(Option::is_some) {
        for (index, slot) in running.iter_mut().enumerate() {
            let Some(guest) = slot else { continue };
            host::set_time_slice(1);
            turns += u64::from(last != index);
            last = index;
            match guest.step(context.cpu) {
                None => {}
                Some(End::Halted(0)) => *slot = None,
                Some(end) => {
                    return Err(format!("guest {index}: {end}\n{}", String::from_utf8_lossy(&guest.transcript())));
                }
            }
        }
    }
    println!("bare: two guests at once: {turns} turns");
    Ok(())
}
