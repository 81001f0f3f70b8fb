//! A unikernel in a virtual machine of the kernel.

#![expect(unsafe_code, reason = "runs without an operating system, or calls it directly")]

use alloc::{boxed::Box, format, string::String, vec::Vec};
use core::fmt;

use hvt_abi::native::Registers;
use hvt_core::{
    Exit, Vcpu,
    device::{Interrupted, Poller, Slot},
    kernel::{Calls, Guest, Hypervisor, Interrupter, Refused},
    memory::GuestMemory,
    monitor::{self, Outcome},
};
use hvt_harness::{
    clock::TscClock,
    monitor::{self as harness, Config, Counts},
    suite::Wires,
};

use crate::{clock, hypervisor::Kernel, memory::GuestRam, sys};

/// Configuration of a unikernel.
pub(crate) struct Setup<'a> {
    /// Guest memory in bytes.
    pub(crate) memory: u64,
    /// Command line arguments.
    pub(crate) arguments: &'a [&'a str],
    /// Devices for the names in the manifest.
    pub(crate) slots: Vec<(String, Slot)>,
    /// Wires that wake the unikernel.
    pub(crate) wires: Wires,
    /// Timeout in nanoseconds.
    pub(crate) limit: u64,
}

impl Setup<'_> {
    /// Returns the configuration of a unikernel without devices and arguments.
    pub(crate) fn plain(memory: u64, limit: u64) -> Self {
        Self { memory, arguments: &[], slots: Vec::new(), wires: Wires::default(), limit }
    }
}

/// A loaded unikernel with a VM.
pub(crate) struct Unikernel<C: Calls = Kernel> {
    // The guest is dropped first, because it changes the memory.
    guest: Guest<C>,
    memory: GuestRam,
    loaded: harness::Loaded,
    counts: Counts,
    deadline: u64,
}

/// A unikernel in memory, before it has a VM.
pub(crate) struct Loaded {
    memory: GuestRam,
    loaded: harness::Loaded,
    deadline: u64,
}

impl Loaded {
    /// Loads the unikernel in `file`.
    ///
    /// # Errors
    /// Returns the message of the component that rejects the unikernel.
    pub(crate) fn new(file: &[u8], setup: Setup<'_>) -> Result<Self, String> {
        let size = usize::try_from(setup.memory).map_err(text)?;
        let memory = GuestRam::new(size).map_err(|errno| format!("guest memory: {errno}"))?;
        let clock = clock::get();
        let deadline = clock.now().saturating_add(setup.limit);
        let config = Config {
            arguments: setup.arguments,
            slots: setup.slots,
            clock: Box::new(clock),
            poller: Box::new(Sleeper { wires: setup.wires, clock, deadline }),
            cycle_frequency: clock.frequency(),
        };
        let loaded = harness::Loaded::new(file, config, &memory)?;
        Ok(Self { memory, loaded, deadline })
    }

    /// Creates a VM for the unikernel.
    ///
    /// # Errors
    /// Returns the message of the kernel if it cannot create the VM.
    pub(crate) fn start<C: Calls + Clone>(self, hypervisor: &Hypervisor<C>) -> Result<Unikernel<C>, String> {
        let Self { memory, loaded, deadline } = self;
        // SAFETY: the memory belongs to this unikernel, and is accessed only through chunks.
        let guest =
            unsafe { Guest::start(hypervisor, memory.start(), memory.size(), &loaded.memory_map, &loaded.entry) };
        Ok(Unikernel { guest: guest.map_err(text)?, memory, loaded, counts: Counts::default(), deadline })
    }
}

impl<C: Calls + Clone> Unikernel<C> {
    /// Loads the unikernel in `file`, and creates a VM for it.
    ///
    /// # Errors
    /// Returns the message of the component that rejects the unikernel.
    pub(crate) fn load(hypervisor: &Hypervisor<C>, file: &[u8], setup: Setup<'_>) -> Result<Self, String> {
        Loaded::new(file, setup)?.start(hypervisor)
    }

    /// Runs the unikernel until it exits or times out ([`Outcome::Interrupted`]).
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub(crate) fn run(&mut self) -> Result<Outcome, String> {
        self.run_until(|| false)
    }

    /// Runs the unikernel until it exits, times out, or `over` returns `true`. `over` is called
    /// each time the host has needed the CPU.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub(crate) fn run_until(&mut self, over: impl Fn() -> bool) -> Result<Outcome, String> {
        let Self { guest, memory, loaded, counts, deadline } = self;
        let over = || over() || clock::get().now() >= *deadline;
        let mut running = Running { guest, memory, over, interrupted: 0 };
        let outcome = monitor::run_observed(&mut running, &loaded.memory_map, &mut loaded.devices, None, counts);
        counts.interrupted += running.interrupted;
        outcome.map_err(text)
    }

    /// Runs until the next exit and serves it. Returns `None` if the unikernel can continue.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub(crate) fn step(&mut self) -> Result<Option<Outcome>, String> {
        let Self { guest, memory, loaded, counts, .. } = self;
        let mut running = Running { guest, memory, over: || true, interrupted: 0 };
        let outcome = monitor::step(&mut running, &loaded.memory_map, &mut loaded.devices, None, counts);
        outcome.map_err(text)
    }

    /// Returns a handle that interrupts the guest from another thread.
    pub(crate) fn interrupter(&self) -> Interrupter<C> {
        self.guest.interrupter()
    }

    /// Returns the VM, and unmaps the guest's memory from this process.
    pub(crate) fn without_memory(self) -> Guest<C> {
        self.guest
    }

    /// Returns the console output of the unikernel.
    pub(crate) fn transcript(&self) -> Vec<u8> {
        self.loaded.console.bytes()
    }

    /// Returns the number of exits of the virtual CPU, by kind.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }
}

/// Virtual CPU of the kernel's hypervisor, as an adapter for the monitor.
struct Running<'a, C: Calls, F> {
    guest: &'a mut Guest<C>,
    memory: &'a GuestRam,
    /// Returns `true` if the run must end. Called each time the host has needed the CPU.
    over: F,
    /// Number of times that the host needed the CPU and the run continued.
    interrupted: u64,
}

impl<C: Calls, F: Fn() -> bool> Vcpu for Running<'_, C, F> {
    type Error = Refused;

    #[inline]
    fn run(&mut self) -> Result<Exit, Refused> {
        loop {
            match self.guest.run()? {
                Exit::Interrupted if !(self.over)() => self.interrupted += 1,
                exit => return Ok(exit),
            }
        }
    }

    #[inline]
    fn memory(&self) -> &dyn GuestMemory {
        self.memory
    }

    fn registers(&self) -> Result<Registers, Refused> {
        self.guest.registers()
    }
}

/// Waits for frames on wires, or until a timeout.
struct Sleeper {
    wires: Wires,
    clock: TscClock,
    /// Deadline of the guest.
    deadline: u64,
}

impl Poller for Sleeper {
    fn poll(&mut self, timeout: u64) -> Result<u64, Interrupted> {
        /// The kernel wakes a sleeping context at a tick of its timer, up to 4 ms late. So the end
        /// of a sleep is a busy wait.
        const TICK: u64 = 10_000_000;
        /// Maximum time between two yields to other contexts.
        const NAP: u64 = 100_000_000;
        let end = self.clock.now().saturating_add(timeout);
        loop {
            let (ready, now) = (self.wires.ready(), self.clock.now());
            if ready != 0 || now >= end {
                return Ok(ready);
            }
            if now >= self.deadline {
                return Err(Interrupted);
            }
            match end - now {
                left if left > 2 * TICK => sys::sleep((left - TICK).min(NAP)),
                _ => sys::yield_now(),
            }
        }
    }
}

fn text(error: impl fmt::Display) -> String {
    format!("{error}")
}
