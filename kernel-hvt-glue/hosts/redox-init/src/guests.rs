//! Unikernels that are not in the conformance table.

use alloc::{format, string::String};

use hvt_harness::{
    pack::Pack,
    suite::{Guest, Machine, Patience, plain_devices, run_case},
    tally::Tally,
};

use crate::{console, fd, memory::heap_in_use, println, suite::Runner};

/// Guest memory in bytes.
const MEMORY: u64 = 64 << 20;

/// Runs a unikernel with a disk of zeros for each block device it names, and a wire that leads back to itself for each
/// network device, and prints what it prints.
///
/// # Errors
/// It did not end with status 0.
pub(crate) fn run(runner: &mut Runner, name: &str, file: &[u8]) -> Result<(), String> {
    let (slots, wires) = plain_devices(file)?;
    let guest = Guest { memory: MEMORY, arguments: &[], slots, wires, patience: Patience::Long };
    let ran = runner.run(file, guest)?;
    console::print_bytes(&ran.transcript);
    println!("guest {name}: {}, {}", ran.outcome, ran.counts);
    if ran.outcome.is_success() { Ok(()) } else { Err(format!("{}", ran.outcome)) }
}

/// What is taken of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Frames that the kernel has free.
    pub(crate) free_frames: u64,
    /// Virtual machines that there are.
    pub(crate) machines: u32,
    /// Bytes of guests' memory that is pinned.
    pub(crate) pinned: u64,
    /// Bytes of this process' heap in use.
    pub(crate) heap: usize,
}

impl Usage {
    /// As of now.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(crate) fn now(runner: &Runner) -> Result<Self, String> {
        let capabilities = runner.hypervisor.capabilities().map_err(|error| format!("{error}"))?;
        let free_frames = fd::free_frames().map_err(|errno| format!("{errno}"))?;
        Ok(Self { free_frames, machines: capabilities.vms, pinned: capabilities.pinned, heap: heap_in_use() })
    }
}

/// Runs unikernels to their ends, `count` of them, one after the other, each on a machine that is created for it and
/// destroyed: what is taken of the machine is the same after each. They end well and badly, with and without devices.
///
/// # Errors
/// One did not end as the conformance table says, or something was lost.
pub(crate) fn cycle(runner: &mut Runner, pack: &Pack<'_>, count: u32) -> Result<(), String> {
    const CASES: [&str; 6] =
        ["hello-in-2-mib", "block-one-block", "net", "panic", "no-interrupt-table", "puts-from-beyond-memory"];
    let mut silent = Tally::new(|_| ());
    // The kernel's heap takes frames for good when it grows.
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
