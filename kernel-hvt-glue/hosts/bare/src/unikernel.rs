//! A unikernel in a virtual machine: connects the tender's monitor to this kernel's memory and the
//! hypervisor's exits.

use alloc::{format, string::String, vec::Vec};
use core::{convert::Infallible, fmt};

use hvt_abi::{Gpa, GuestRange, native::Registers};
use hvt_core::{
    Exit, exit,
    memory::GuestMemory,
    monitor::{self, Outcome},
};
use hvt_harness::monitor::{Config, Counts, Loaded};
use kernel_hvt_glue::{Bound, Cpu, Hypervisor, Permissions, Vcpu, Vm};

use crate::{
    host::{self, Kernel},
    interrupts,
    ram::{Blocks, GuestRam},
};

/// A loaded unikernel.
pub(crate) struct Unikernel {
    vm: Vm<Kernel>,
    vcpu: Vcpu<Kernel>,
    blocks: Blocks,
    loaded: Loaded,
    counts: Counts,
    /// Timer tick from which on the unikernel has timed out.
    deadline: u64,
}

impl Unikernel {
    /// Loads the unikernel in `file` into `memory` bytes of guest memory. The unikernel times out
    /// at the timer tick `deadline`.
    ///
    /// # Errors
    /// Returns the message of the component that rejects the unikernel.
    pub(crate) fn load(
        hypervisor: &Hypervisor<Kernel>,
        file: &[u8],
        memory: u64,
        config: Config<'_>,
        deadline: u64,
    ) -> Result<Self, String> {
        let mut vm = Vm::new(hypervisor).map_err(text)?;
        let range = GuestRange::new(Gpa(0), memory).ok_or("memory wraps around")?;
        // Memory outside the regions of the memory map holds descriptors and page tables. The CPU
        // writes accessed and dirty bits there on behalf of the guest.
        vm.allocate(range, Permissions::READ | Permissions::WRITE).map_err(text)?;
        let blocks = Blocks::of(&vm, memory);
        let loaded = Loaded::new(file, config, &GuestRam::new(&vm, &blocks))?;
        for region in loaded.memory_map.regions() {
            vm.protect(region.range, region.access).map_err(text)?;
        }
        let vcpu = vm.create_vcpu(&loaded.entry).map_err(text)?;
        Ok(Self { vm, vcpu, blocks, loaded, counts: Counts::default(), deadline })
    }

    /// Runs the unikernel until it exits or times out ([`Outcome::Interrupted`]).
    ///
    /// # Errors
    /// Returns the hypervisor's message if it cannot run the virtual CPU.
    pub(crate) fn run(&mut self, cpu: &mut Cpu<Kernel>) -> Result<Outcome, String> {
        host::set_time_slice(self.deadline.saturating_sub(interrupts::ticks()));
        let Self { vm, vcpu, blocks, loaded, counts, deadline } = self;
        let bound = vcpu.bind(cpu, vm).map_err(text)?;
        let mut running = Running::new(bound, GuestRam::new(vm, blocks), *deadline);
        let Ok(outcome) = monitor::run_observed(&mut running, &loaded.memory_map, &mut loaded.devices, None, counts);
        counts.interrupted += running.interrupted;
        Ok(outcome)
    }

    /// Runs until the next exit and serves it. Returns `None` if the unikernel can continue. The
    /// caller sets the time slice.
    ///
    /// # Errors
    /// Returns the hypervisor's message if it cannot run the virtual CPU.
    pub(crate) fn step(&mut self, cpu: &mut Cpu<Kernel>) -> Result<Option<Outcome>, String> {
        let Self { vm, vcpu, blocks, loaded, counts, deadline } = self;
        let bound = vcpu.bind(cpu, vm).map_err(text)?;
        // The end of a time slice ends the step.
        let mut running = Running::new(bound, GuestRam::new(vm, blocks), 0);
        let Ok(outcome) = monitor::step(&mut running, &loaded.memory_map, &mut loaded.devices, None, counts);
        Ok(outcome.filter(|outcome| *outcome != Outcome::Interrupted || interrupts::ticks() >= *deadline))
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

/// Adapter of a bound virtual CPU for the monitor.
pub(crate) struct Running<'a> {
    bound: Bound<'a, Kernel>,
    memory: GuestRam<'a>,
    /// Timer tick from which on the end of a time slice ends the run.
    deadline: u64,
    /// Number of time slices that ended before the deadline.
    interrupted: u64,
}

impl<'a> Running<'a> {
    /// Runs `bound` until the end of a time slice at or after the timer tick `deadline`.
    pub(crate) fn new(bound: Bound<'a, Kernel>, memory: GuestRam<'a>, deadline: u64) -> Self {
        Self { bound, memory, deadline, interrupted: 0 }
    }
}

impl hvt_core::Vcpu for Running<'_> {
    type Error = Infallible;

    #[inline]
    fn run(&mut self) -> Result<Exit, Infallible> {
        loop {
            let exit = self.bound.run();
            match exit::from_kernel(exit, || self.bound.registers()) {
                Exit::Interrupted if interrupts::ticks() < self.deadline => self.interrupted += 1,
                exit => return Ok(exit),
            }
        }
    }

    #[inline]
    fn memory(&self) -> &dyn GuestMemory {
        &self.memory
    }

    fn registers(&self) -> Result<Registers, Infallible> {
        Ok(self.bound.registers())
    }
}

fn text(error: impl fmt::Display) -> String {
    format!("{error}")
}
