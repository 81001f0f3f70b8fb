//! A unikernel in a virtual machine of the kernel's.

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

/// What a unikernel is started with.
pub(crate) struct Setup<'a> {
    /// Guest memory in bytes.
    pub(crate) memory: u64,
    /// Its arguments.
    pub(crate) arguments: &'a [&'a str],
    /// The devices for those that its manifest names.
    pub(crate) slots: Vec<(String, Slot)>,
    /// What it waits for.
    pub(crate) wires: Wires,
    /// Nanoseconds after which it is given up.
    pub(crate) limit: u64,
}

impl Setup<'_> {
    /// A unikernel without devices and arguments, given up after this many nanoseconds.
    pub(crate) fn plain(memory: u64, limit: u64) -> Self {
        Self { memory, arguments: &[], slots: Vec::new(), wires: Wires::default(), limit }
    }
}

/// A unikernel that has been loaded.
pub(crate) struct Unikernel<C: Calls = Kernel> {
    // The guest goes first: it changes the memory.
    guest: Guest<C>,
    memory: GuestRam,
    loaded: harness::Loaded,
    counts: Counts,
    deadline: u64,
}

/// A unikernel in memory, before it has a machine.
pub(crate) struct Loaded {
    memory: GuestRam,
    loaded: harness::Loaded,
    deadline: u64,
}

impl Loaded {
    /// Loads the unikernel in `file`.
    ///
    /// # Errors
    /// The message of whatever refuses it.
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

    /// Gives it a machine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn start<C: Calls + Clone>(self, hypervisor: &Hypervisor<C>) -> Result<Unikernel<C>, String> {
        let Self { memory, loaded, deadline } = self;
        // SAFETY: this memory is this unikernel's own, and it is reached through chunks alone.
        let guest =
            unsafe { Guest::start(hypervisor, memory.start(), memory.size(), &loaded.memory_map, &loaded.entry) };
        Ok(Unikernel { guest: guest.map_err(text)?, memory, loaded, counts: Counts::default(), deadline })
    }
}

impl<C: Calls + Clone> Unikernel<C> {
    /// Loads the unikernel in `file`, and gives it a machine.
    ///
    /// # Errors
    /// The message of whatever refuses it.
    pub(crate) fn load(hypervisor: &Hypervisor<C>, file: &[u8], setup: Setup<'_>) -> Result<Self, String> {
        Loaded::new(file, setup)?.start(hypervisor)
    }

    /// Runs until it ends, or is given up: [`Outcome::Interrupted`].
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn run(&mut self) -> Result<Outcome, String> {
        self.run_until(|| false)
    }

    /// Runs until it ends, or is given up: `over` is asked whenever the host has needed the CPU.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn run_until(&mut self, over: impl Fn() -> bool) -> Result<Outcome, String> {
        let Self { guest, memory, loaded, counts, deadline } = self;
        let over = || over() || clock::get().now() >= *deadline;
        let mut running = Running { guest, memory, over, interrupted: 0 };
        let outcome = monitor::run_observed(&mut running, &loaded.memory_map, &mut loaded.devices, None, counts);
        counts.interrupted += running.interrupted;
        outcome.map_err(text)
    }

    /// Runs until the next exit and serves it. Returns `None` if the unikernel can run on.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn step(&mut self) -> Result<Option<Outcome>, String> {
        let Self { guest, memory, loaded, counts, .. } = self;
        let mut running = Running { guest, memory, over: || true, interrupted: 0 };
        let outcome = monitor::step(&mut running, &loaded.memory_map, &mut loaded.devices, None, counts);
        outcome.map_err(text)
    }

    /// What interrupts it from another thread.
    pub(crate) fn interrupter(&self) -> Interrupter<C> {
        self.guest.interrupter()
    }

    /// Its machine alone: its memory is unmapped.
    pub(crate) fn without_memory(self) -> Guest<C> {
        self.guest
    }

    /// What it has printed.
    pub(crate) fn transcript(&self) -> Vec<u8> {
        self.loaded.console.bytes()
    }

    /// How often it left the virtual CPU.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }
}

/// A virtual CPU of the kernel's hypervisor, for the monitor.
struct Running<'a, C: Calls, F> {
    guest: &'a mut Guest<C>,
    memory: &'a GuestRam,
    /// Whether the run ends. Called whenever the host has needed the CPU.
    over: F,
    /// How often the host has needed the CPU, and the run went on.
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

/// Waits for frames on wires, or for the time.
struct Sleeper {
    wires: Wires,
    clock: TscClock,
    /// When the guest is given up.
    deadline: u64,
}

impl Poller for Sleeper {
    fn poll(&mut self, timeout: u64) -> Result<u64, Interrupted> {
        /// The kernel wakes who sleeps at a tick of its timer, 4 ms at most after the time: the end of a sleep is waited
        /// for awake.
        const TICK: u64 = 10_000_000;
        /// Others get the CPU at least that often.
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
