//! Run of a unikernel on Redox, on the kernel's hypervisor.

use std::io;
use std::sync::Arc;

use super::{Taken, Unikernel, UnikernelError, with_handles};
use crate::backend::redox::{Redox, System, cycle_frequency};
use crate::backend::{CancelToken, Unavailable};
use crate::boot::{BootConfig, BootPlan, CommandLine};
use crate::config::{BackendChoice, memory_size};
use crate::device::{Attached, Console, Devices, Endpoint, FdConsole, FdPoller, Interrupted, Pollable, attach};
use crate::memory::PrivateMemory;
use crate::monitor::{self, Outcome};

/// Settings specific to Redox. There are none.
#[derive(Clone, Debug)]
pub(super) struct Extras;

/// Endpoint on which a guest waits for a network device.
pub(super) struct Waits(Arc<Endpoint>);

impl Waits {
    /// Returns the endpoint of `device`.
    pub(super) fn of(device: &impl Pollable) -> Self {
        Self(device.endpoint())
    }
}

impl Extras {
    /// Returns the default settings.
    pub(super) const fn begin() -> Self {
        Self
    }
}

impl Unikernel {
    /// Runs the guest on the calling thread, to its end or until `stop` is requested.
    pub(super) fn run_until(self, stop: CancelToken) -> Result<Outcome, UnikernelError> {
        let Self { loaded, memory, arguments, backend, attachments, console, clock, extras: Extras, .. } = self;
        let image = loaded.borrow_dependent();
        let mem_size = memory_size(memory)?;
        let cmdline = CommandLine::from_args(arguments)?;
        let clock = Self::take_clock(clock)?;
        let console = Self::take_console(console)?;
        let Taken { slots, waits } = Taken::from(attachments)?;
        let endpoints =
            with_handles(image.manifest(), waits).into_iter().map(|(handle, Waits(endpoint))| (handle, endpoint));
        let poller = Box::new(FdPoller::new(stop.clone(), endpoints));
        let Attached { slots, manifest } = attach(image.manifest(), slots)?;
        let console: Box<dyn Console> = match console {
            Some(console) => console,
            None => Box::new(FdConsole::new(io::stdout(), stop.clone())),
        };
        let mut devices = Devices { console, clock, poller, slots };
        let hypervisor = open(backend)?;
        let memory = PrivateMemory::new(mem_size)?;
        let config = BootConfig {
            mem_size,
            cmdline: &cmdline,
            manifest: &manifest,
            cpu_cycle_freq: cycle_frequency(),
            net_ring: None,
        };
        let booted = BootPlan::new(image, config)?.load(&memory)?;
        // The file has been copied to guest memory.
        drop(loaded);
        let mut machine = hypervisor.start(memory, &booted.memory_map, &booted.entry, &stop)?;
        let outcome = match devices.poller.begin() {
            Ok(()) => monitor::run(&mut machine, &booted.memory_map, &mut devices),
            Err(Interrupted) => Ok(Outcome::Interrupted),
        };
        match (outcome, devices.sync()) {
            // Report the loss of data that the guest has written.
            (Ok(Outcome::Exited { .. }), Err(_)) => Err(UnikernelError::Unsynced),
            (outcome, _) => Ok(outcome?),
        }
    }
}

fn open(choice: BackendChoice) -> Result<Redox<System>, Unavailable> {
    let reason = || "not supported on Redox: omit --backend".into();
    match choice {
        BackendChoice::Auto | BackendChoice::Redox => Redox::open(System),
        BackendChoice::Kvm => Err(Unavailable { backend: "kvm", reason: reason() }),
        BackendChoice::Process => Err(Unavailable { backend: "process", reason: reason() }),
    }
}
