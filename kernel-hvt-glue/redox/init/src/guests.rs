//! Unikernels that are not in the conformance table.

use alloc::{format, string::String};

use hvt_harness::{
    monitor::End,
    suite::{Guest, Machine, Patience, plain_devices},
};

use crate::{
    console, fd,
    memory::heap_in_use,
    println,
    suite::{LIMIT, Runner},
    unikernel::{Setup, Unikernel},
};

/// Guest memory in bytes.
const MEMORY: u64 = 64 << 20;
/// The same where a guest does not do much.
const SMALL_MEMORY: u64 = 2 << 20;

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
    println!("guest {name}: {}, {}", ran.end, ran.counts);
    if ran.end == End::Halted(0) { Ok(()) } else { Err(format!("{}", ran.end)) }
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

/// Creates, runs and destroys a unikernel `count` times: what is taken of the machine is the same after each.
///
/// # Errors
/// It did not end with status 0, or something was lost.
pub(crate) fn cycle(runner: &mut Runner, file: &[u8], count: u32) -> Result<(), String> {
    let once = |runner: &Runner| {
        let mut guest = Unikernel::load(&runner.hypervisor, file, Setup::plain(SMALL_MEMORY, LIMIT))?;
        match guest.run() {
            End::Halted(0) => Ok(()),
            end => Err(format!("{end}")),
        }
    };
    // The kernel's heap takes frames for good when it grows.
    once(runner)?;
    let before = Usage::now(runner)?;
    for round in 0..count {
        once(runner).map_err(|error| format!("round {round}: {error}"))?;
        let after = Usage::now(runner)?;
        if after != before {
            return Err(format!("round {round}: {before:?}, then {after:?}"));
        }
    }
    println!("{count} cycles: {} frames free before and after each", before.free_frames);
    Ok(())
}
