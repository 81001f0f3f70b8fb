//! Cost of operations in TSC ticks. Under QEMU's `-icount shift=0` a tick is an instruction, and
//! the figures are reproducible.

use alloc::{format, string::String};

use hvt_harness::{clock::tsc, pack::Pack};

use crate::{
    println,
    suite::{LIMIT, Runner},
    unikernel::{Loaded, Setup, Unikernel},
};

/// Limit for a walltime hypercall, from the guest to the tender in user space and back, in
/// instructions. The measured value was 976, including 390 for the kernel's own path into a scheme
/// and back.
const WALLTIME_MAX: u64 = 1100;
/// Guest memory in bytes of the VM that is created and destroyed.
const MEMORY: u64 = 32 << 20;
/// Rounds per measurement.
const ROUNDS: u64 = 16;

/// Prints every figure.
///
/// # Errors
/// Returns a message if a measurement fails or exceeds its limit.
pub(crate) fn print(runner: &Runner, pack: &Pack<'_>) -> Result<(), String> {
    let walltime = walltime(runner, pack)?;
    println!("cost walltime hypercall, guest to tender and back: {walltime}");
    let [load, start, first, destroy] = machine(runner, pack)?;
    println!(
        "cost of a VM of 32 MiB: {load} loading, {start} creating, {first} to its first exit, {destroy} destroying"
    );
    println!("cost create VM, first exit, destroy, 32 MiB: {}", start + first + destroy);
    if walltime <= WALLTIME_MAX {
        Ok(())
    } else {
        Err(format!("a walltime hypercall costs {walltime}, more than the limit of {WALLTIME_MAX}"))
    }
}

/// Measures a walltime hypercall as counted by the guest, which includes a few instructions of the
/// guest.
fn walltime(runner: &Runner, pack: &Pack<'_>) -> Result<u64, String> {
    let setup = Setup { arguments: &["1000"], ..Setup::plain(MEMORY, LIMIT) };
    let mut guest = Unikernel::load(&runner.hypervisor, pack.suite("bench-walltime")?, setup)?;
    let outcome = guest.run()?;
    let transcript = guest.transcript();
    let said = String::from_utf8_lossy(&transcript);
    let figure = said.lines().find_map(|line| line.strip_prefix("cycles per call: ")?.parse().ok());
    figure.ok_or_else(|| format!("the guest printed no count: {outcome}: {said}"))
}

/// Measures a VM's life: loading the unikernel, creating the VM, running it to its first exit, and
/// destroying it.
fn machine(runner: &Runner, pack: &Pack<'_>) -> Result<[u64; 4], String> {
    let file = pack.suite("hello")?;
    let mut sums = [0; 4];
    for _ in 0..ROUNDS {
        let start = tsc();
        let loaded = Loaded::new(file, Setup::plain(MEMORY, LIMIT))?;
        let loading = tsc();
        let mut guest = loaded.start(&runner.hypervisor)?;
        let created = tsc();
        if let Some(outcome) = guest.step()? {
            return Err(format!("the guest ended at its first exit: {outcome}"));
        }
        let stepped = tsc();
        drop(guest);
        let times = [start, loading, created, stepped, tsc()];
        for (sum, ends) in sums.iter_mut().zip(times.windows(2)) {
            *sum += ends[1] - ends[0];
        }
    }
    Ok(sums.map(|sum| sum / ROUNDS))
}
