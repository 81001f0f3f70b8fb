//! Unikernels outside the conformance table.

use alloc::{format, string::String};

use hvt_harness::{
    pack::Pack,
    suite::{Guest, Machine, Patience, plain_devices, run_case},
    tally::Tally,
};

use crate::{console, fd, memory::heap_in_use, println, suite::Runner};

/// Guest memory in bytes.
const MEMORY: u64 = 64 << 20;

/// Runs a unikernel with a zero-filled disk for each block device in its manifest and a loopback
/// wire for each network device. Prints the unikernel's output.
///
/// # Errors
/// Returns a message if the unikernel does not exit with status 0.
pub(crate) fn run(runner: &mut Runner, name: &str, file: &[u8]) -> Result<(), String> {
    let (slots, wires) = plain_devices(file)?;
    let guest = Guest { memory: MEMORY, arguments: &[], slots, wires, patience: Patience::Long };
    let ran = runner.run(file, guest)?;
    console::print_bytes(&ran.transcript);
    println!("guest {name}: {}, {}", ran.outcome, ran.counts);
    if ran.outcome.is_success() { Ok(()) } else { Err(format!("{}", ran.outcome)) }
}

/// Resource usage of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Number of the kernel's free frames.
    pub(crate) free_frames: u64,
    /// Number of virtual machines.
    pub(crate) machines: u32,
    /// Number of pinned bytes of guest memory.
    pub(crate) pinned: u64,
    /// Number of bytes in use on this process's heap.
    pub(crate) heap: usize,
}

impl Usage {
    /// Returns the current usage.
    ///
    /// # Errors
    /// Returns a message if the kernel does not report its usage.
    pub(crate) fn now(runner: &Runner) -> Result<Self, String> {
        let capabilities = runner.hypervisor.capabilities().map_err(|error| format!("{error}"))?;
        let free_frames = fd::free_frames().map_err(|errno| format!("{errno}"))?;
        Ok(Self { free_frames, machines: capabilities.vms, pinned: capabilities.pinned, heap: heap_in_use() })
    }
}

/// Runs `count` unikernels one after the other, each on its own VM. Resource usage must be the same
/// after each. The unikernels include successes and failures, with and without devices.
///
/// # Errors
/// Returns a message if a unikernel does not end as the conformance table requires, or if a
/// resource leaks.
pub(crate) fn cycle(runner: &mut Runner, pack: &Pack<'_>, count: u32) -> Result<(), String> {
    const CASES: [&str; 6] =
        ["hello-in-2-mib", "block-one-block", "net", "panic", "no-interrupt-table", "puts-from-beyond-memory"];
    let mut silent = Tally::new(|_| ());
    // The kernel's heap keeps its frames when it grows, so every case runs once before the
    // measurement.
    for case in CASES {
        run_case(runner, case, pack, &mut silent).map_err(|error| format!("{case}: {error}"))?;
    }
    let before = Usage::now(runner)?;
    for (round, case) in (0..count).zip(CASES.into_iter().cycle()) {
        run_case(runner, case, pack, &mut silent).map_err(|error| format!("round {round}, {case}: {error}"))?;
        let after = Usage::now(runner)?;
        if after != before {
            return Err(format!("round {round}, {case}: {before:?}, then {after:?}"));
        }
    }
    println!("{count} unikernels run: {} frames free before and after each", before.free_frames);
    Ok(())
}
