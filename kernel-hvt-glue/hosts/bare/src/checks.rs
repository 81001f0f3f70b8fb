//! Runs all checks, in order.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use alloc::{
    format,
    string::{String, ToString},
};

use hvt_bare::options::Options;
use hvt_harness::{pack::Pack, suite, tally::Tally};
use kernel_hvt_glue::Hypervisor;

use crate::{
    console::println,
    cost, guests,
    host::{Context, Kernel},
    interrupts,
    memory::Usage,
    probes,
};

/// Runs the checks selected by `options` and prints their results. Returns `true` if all passed.
pub(crate) fn run(options: &Options, pack: &Pack<'_>) -> bool {
    let mut tally = Tally::new(|line| println!("bare: {line}"));
    let before = Usage::now();
    let done = with_hypervisor(|mut context| each(options, pack, &mut context, &mut tally));
    if done.is_err() {
        tally.add_result("check", "hypervisor", done);
    }
    let after = Usage::now();
    let same = if before == after { Ok(()) } else { Err(format!("{before:?}, then {after:?}")) };
    tally.add_result("check", "memory", same);
    let (first, last) = (before.free_frames, after.free_frames);
    println!("bare: {first} frames free before, {last} after; {} timer interrupts", interrupts::ticks());
    println!("bare: {tally}");
    tally.all_held()
}

/// Enables the hypervisor on this CPU for the duration of `work`.
fn with_hypervisor(work: impl FnOnce(Context<'_>)) -> Result<(), String> {
    // SAFETY: CPL 0, 64-bit mode.
    let hypervisor = unsafe { Hypervisor::new(Kernel) }.map_err(|error| error.to_string())?;
    // SAFETY: CPL 0, 64-bit mode; no value moves to another CPU, and no other code accesses the
    // registers of the virtualization extension.
    let mut cpu = unsafe { hypervisor.enable() }.map_err(|error| error.to_string())?;
    work(Context { hypervisor: &hypervisor, cpu: &mut cpu });
    Ok(())
}

fn each(options: &Options, pack: &Pack<'_>, context: &mut Context<'_>, tally: &mut Tally) {
    if options.probes {
        for probe in probes::PROBES.iter().copied().flatten() {
            tally.add("probe", probe.name, (probe.run)(context));
        }
    }
    if options.suite {
        suite::run(context, pack, tally);
        let files = pack.suite("fpu").and_then(|fpu| Ok([fpu, pack.suite("heap")?]));
        tally.add_result("check", "interleaved", files.and_then(|files| guests::interleave(context, files)));
    }
    if options.guests {
        for (name, file) in pack.guests() {
            tally.add_result("guest", name, guests::run(context, name, file));
        }
    }
    if options.cycles > 0 {
        let file = pack.suite("hello");
        tally.add_result("check", "cycles", file.and_then(|file| guests::cycle(context, file, options.cycles)));
    }
    if options.cost {
        tally.add_result("check", "cost", cost::print(context));
    }
}
