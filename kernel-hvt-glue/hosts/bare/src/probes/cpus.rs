//! Probes of multiple CPUs: migration of a virtual CPU, guests on both CPUs at once, and
//! non-maskable interrupts.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use alloc::{format, string::String, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use hvt_abi::kernel::Exit;
use kernel_hvt_glue::Hypervisor;

use super::{
    Answer, Context, Probe, Verdict, code, expect_eq, expect_matches,
    machine::{DATA, INTERRUPT_FLAG, Machine},
};
use crate::{
    host::{self, Kernel},
    interrupts, smp,
};

pub(super) const PROBES: &[Probe] = &[
    Probe { name: "move-between-cpus", run: move_between_cpus },
    Probe { name: "run-on-both-cpus", run: run_on_both_cpus },
    Probe { name: "nmi", run: nmi },
];

const ONE_CPU: Verdict = Verdict::Skipped("the machine has only one CPU");

/// Creates a VM that counts in memory in an endless loop.
fn counter(hypervisor: &Hypervisor<Kernel>) -> Result<Machine, String> {
    let mut machine = Machine::new(hypervisor, code::count())?;
    machine.set(|registers| {
        registers.rdi = DATA.0;
        registers.rflags |= INTERRUPT_FLAG;
    });
    Ok(machine)
}

/// Runs a VM for two ticks on the second CPU.
fn slice_there(hypervisor: &Hypervisor<Kernel>, machine: &mut Machine) -> Result<Exit, String> {
    // SAFETY: CPL 0, 64-bit mode, and no value moves to another CPU.
    let mut cpu = unsafe { hypervisor.enable() }.map_err(|error| format!("{error}"))?;
    host::set_time_slice(2);
    machine.run_slice(&mut cpu)
}

/// A virtual CPU resumes its execution on one CPU and then on the other.
fn move_between_cpus(context: &mut Context<'_>) -> Answer {
    if !smp::is_there() {
        return Ok(ONE_CPU);
    }
    let mut machine = counter(context.hypervisor)?;
    // A time slice may end before it begins, but not every one does.
    let mut last = 0;
    for _ in 0..10 {
        host::set_time_slice(2);
        expect_eq!(machine.run_slice(context.cpu)?, Exit::Interrupted);
        let mut exit = Err(String::new());
        smp::beside(|| exit = slice_there(context.hypervisor, &mut machine), || ());
        expect_eq!(exit?, Exit::Interrupted);
        let count = machine.words(DATA, 1)?[0];
        expect_matches!(count, _ if count >= last);
        last = count;
    }
    expect_matches!(last, 1..);
    Ok(Verdict::Passed)
}

/// Two VMs run at the same time, each on its own CPU.
fn run_on_both_cpus(context: &mut Context<'_>) -> Answer {
    if !smp::is_there() {
        return Ok(ONE_CPU);
    }
    let mut machines: Vec<Machine> = Vec::new();
    for _ in 0..2 {
        machines.push(counter(context.hypervisor)?);
    }
    let [here, there] = &mut machines[..] else { return Err("two machines".into()) };
    for _ in 0..10 {
        let mut exit = Err(String::new());
        let other = smp::beside(
            || exit = slice_there(context.hypervisor, there),
            || {
                host::set_time_slice(2);
                here.run_slice(context.cpu)
            },
        );
        expect_eq!([exit?, other?], [Exit::Interrupted; 2]);
    }
    expect_matches!(here.words(DATA, 1)?[0], 1..);
    expect_matches!(there.words(DATA, 1)?[0], 1..);
    Ok(Verdict::Passed)
}

/// Non-maskable interrupts reach the host while a guest runs, without an effect on the guest.
fn nmi(context: &mut Context<'_>) -> Answer {
    /// Number of NMIs that must arrive, and number of time slices allowed for them.
    const WANTED: u64 = 20;
    const SLICES: u32 = 1000;
    if !smp::is_there() {
        return Ok(ONE_CPU);
    }
    let mut machine = counter(context.hypervisor)?;
    let before = interrupts::nmis();
    let done = AtomicBool::new(false);
    let slices = smp::beside(
        || {
            while !done.load(Ordering::Relaxed) {
                smp::interrupt_boot_cpu();
            }
        },
        || {
            let mut slices = 0;
            while interrupts::nmis() - before < WANTED && slices < SLICES {
                host::set_time_slice(1);
                if machine.run_slice(context.cpu) != Ok(Exit::Interrupted) {
                    break;
                }
                slices += 1;
            }
            done.store(true, Ordering::Relaxed);
            slices
        },
    );
    expect_matches!(slices, 1..SLICES);
    expect_matches!(interrupts::nmis() - before, WANTED..);
    expect_matches!(machine.words(DATA, 1)?[0], 1..);
    Ok(Verdict::Passed)
}
