//! A unikernel in a virtual machine: the tender's rooms between this kernel's memory and the hypervisor's exits.

use alloc::{format, string::String, vec::Vec};
use core::fmt;

use hvt_abi::{Gpa, GuestRange};
use hvt_core::{Exit, exit, memory::Access};
use hvt_harness::monitor::{Config, Counts, End, Monitor, Stop};
use kernel_hvt_glue::{Cpu, Hypervisor, Permissions, Vcpu, Vm};

use crate::{
    host::{self, Kernel},
    interrupts,
    ram::{Blocks, GuestRam},
};

/// A unikernel that has been loaded.
pub(crate) struct Unikernel {
    vm: Vm<Kernel>,
    vcpu: Vcpu<Kernel>,
    blocks: Blocks,
    monitor: Monitor,
    /// The timer tick at which it is given up.
    deadline: u64,
}

impl Unikernel {
    /// Loads the unikernel in `file` into `memory` bytes of guest memory; it is given up at the timer tick `deadline`.
    ///
    /// # Errors
    /// The message of whatever refuses it.
    pub(crate) fn load(
        hypervisor: &Hypervisor<Kernel>,
        file: &[u8],
        memory: u64,
        config: Config<'_>,
        deadline: u64,
    ) -> Result<Self, String> {
        let mut vm = Vm::new(hypervisor).map_err(text)?;
        let range = GuestRange::new(Gpa(0), memory).ok_or("memory wraps around")?;
        // What the layout leaves out holds descriptors and page tables, which the CPU writes for the guest.
        vm.allocate(range, Permissions::READ | Permissions::WRITE).map_err(text)?;
        let blocks = Blocks::of(&vm, memory);
        let (monitor, entry) = Monitor::load(file, config, &GuestRam::new(&vm, &blocks))?;
        for region in monitor.layout().regions() {
            vm.protect(region.range, permissions(region.access)).map_err(text)?;
        }
        let vcpu = vm.create_vcpu(&entry).map_err(text)?;
        Ok(Self { vm, vcpu, blocks, monitor, deadline })
    }

    /// Runs until it ends.
    pub(crate) fn run(&mut self, cpu: &mut Cpu<Kernel>) -> End {
        host::set_time_slice(self.deadline.saturating_sub(interrupts::ticks()));
        let mut bound = match self.vcpu.bind(cpu, &self.vm) {
            Ok(bound) => bound,
            Err(error) => return End::Stopped(Stop::Refused(text(error))),
        };
        let memory = GuestRam::new(&self.vm, &self.blocks);
        loop {
            let exit = bound.run();
            let exit = exit::from_kernel(exit, || bound.registers());
            if let Some(end) = handle(&mut self.monitor, self.deadline, &memory, exit) {
                return end;
            }
        }
    }

    /// Runs until the next exit and serves it. The caller sets the time slice.
    pub(crate) fn step(&mut self, cpu: &mut Cpu<Kernel>) -> Option<End> {
        let memory = GuestRam::new(&self.vm, &self.blocks);
        match self.vcpu.run(cpu, &self.vm) {
            Ok(exit) => {
                let exit = exit::from_kernel(exit, || self.vcpu.registers());
                handle(&mut self.monitor, self.deadline, &memory, exit)
            }
            Err(error) => Some(End::Stopped(Stop::Refused(text(error)))),
        }
    }

    /// What it has printed.
    pub(crate) fn transcript(&self) -> Vec<u8> {
        self.monitor.transcript()
    }

    /// How often it left the virtual CPU.
    pub(crate) fn counts(&self) -> Counts {
        self.monitor.counts()
    }
}

/// Serves an exit; `Some` when it was the last.
fn handle(monitor: &mut Monitor, deadline: u64, memory: &GuestRam<'_>, exit: Exit) -> Option<End> {
    let interrupted = exit == Exit::Interrupted;
    let end = monitor.handle(memory, exit);
    if interrupted && interrupts::ticks() >= deadline { Some(End::TimedOut) } else { end }
}

fn permissions(access: Access) -> Permissions {
    let mut permissions = Permissions::empty();
    permissions.set(Permissions::READ, access.contains(Access::READ));
    permissions.set(Permissions::WRITE, access.contains(Access::WRITE));
    permissions.set(Permissions::EXECUTE, access.contains(Access::EXECUTE));
    permissions
}

fn text(error: impl fmt::Display) -> String {
    format!("{error}")
}
