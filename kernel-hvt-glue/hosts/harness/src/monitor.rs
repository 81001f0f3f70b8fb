//! Parts of a unikernel outside of its virtual machine: loading it, and counting its exits.

use alloc::{boxed::Box, format, string::String, vec::Vec};
use core::fmt;

use hvt_abi::{Gpa, hypercall::Number, native::EntryState};
use hvt_core::{
    boot::{BootConfig, BootPlan, CommandLine},
    device::{Clock, Devices, Poller, Slot, attach, in_memory::ConsoleBuffer},
    hypercall::{self, Flow},
    image::{Image, Manifest},
    memory::{GuestMemory, GuestSpace, MemoryMap},
    monitor::Observer,
};

/// Configuration of a unikernel.
pub struct Config<'a> {
    /// Command line arguments.
    pub arguments: &'a [&'a str],
    /// Devices for the names in the manifest.
    pub slots: Vec<(String, Slot)>,
    /// Wall clock.
    pub clock: Box<dyn Clock>,
    /// Poller for sleeping.
    pub poller: Box<dyn Poller>,
    /// Frequency of the cycle counter in Hz.
    pub cycle_frequency: u64,
}

/// A unikernel in guest memory, with its devices.
pub struct Loaded {
    /// Permissions of guest memory.
    pub memory_map: MemoryMap,
    /// Registers at the entry point.
    pub entry: EntryState,
    /// Devices for the monitor.
    pub devices: Devices,
    /// Output of the console.
    pub console: ConsoleBuffer,
}

impl Loaded {
    /// Loads the unikernel in `file` into `memory`.
    ///
    /// # Errors
    /// Returns the message of the component that rejects `file` or `config`.
    pub fn new(file: &[u8], config: Config<'_>, memory: &dyn GuestMemory) -> Result<Self, String> {
        let image = Image::parse(file).map_err(text)?;
        let attached = attach::attach(image.manifest(), config.slots).map_err(text)?;
        let cmdline = CommandLine::from_args(config.arguments).map_err(text)?;
        let boot_config = BootConfig {
            mem_size: memory.size(),
            cmdline: &cmdline,
            manifest: &attached.manifest,
            cpu_cycle_freq: config.cycle_frequency,
            net_ring: None,
        };
        let booted = BootPlan::new(&image, boot_config).map_err(text)?.load(memory).map_err(text)?;
        let console = ConsoleBuffer::default();
        let devices = Devices {
            console: Box::new(console.clone()),
            clock: config.clock,
            poller: config.poller,
            slots: attached.slots,
        };
        Ok(Self { memory_map: booted.memory_map, entry: booted.entry, devices, console })
    }
}

/// Number of exits of a unikernel by reason. As an [`Observer`], it counts hypercalls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Counts by hypercall number; index 0 is for unknown hypercalls.
    hypercalls: [u64; Number::ALL.len() + 1],
    /// Number of time slices that ended, which the monitor does not see.
    pub interrupted: u64,
}

impl Counts {
    /// Returns the number of hypercalls and ended time slices.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.hypercalls.iter().sum::<u64>() + self.interrupted
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} exits", self.total())?;
        for (number, count) in self.hypercalls.iter().enumerate().filter(|(_, count)| **count > 0) {
            write!(f, ", {} {count}", Number::from_u32(number as u32).map_or("unknown", Number::name))?;
        }
        if self.interrupted > 0 {
            write!(f, ", interrupted {}", self.interrupted)?;
        }
        Ok(())
    }
}

impl Observer for Counts {
    fn called(&mut self, number: u32, _: Gpa, _: &GuestSpace<'_>) {
        let counter = Number::from_u32(number).map_or(0, |number| number as usize);
        self.hypercalls[counter] += 1;
    }

    fn served(&mut self, _: u32, _: Gpa, _: &GuestSpace<'_>, _: &Result<Flow, hypercall::HypercallError>) {}
}

/// Returns the manifest of the unikernel in `file`.
///
/// # Errors
/// Returns the message of the parser if `file` is invalid.
pub fn manifest(file: &[u8]) -> Result<Manifest, String> {
    Ok(Image::parse(file).map_err(text)?.manifest().clone())
}

fn text(error: impl fmt::Display) -> String {
    format!("{error}")
}
