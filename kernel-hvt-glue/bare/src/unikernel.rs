//! A unikernel in a virtual machine: the tender's rooms between this kernel's memory and the hypervisor's exits.

use alloc::{boxed::Box, format, string::String, vec::Vec};
use core::fmt;

use hvt_abi::{Gpa, GuestRange, hypercall::Number, kernel, native::Registers};
use hvt_bare::{devices::Transcript, exit};
use hvt_tender::{
    Exit,
    boot::{self, BootConfig, CommandLine},
    device::{Devices, Slot, attach},
    exit::Cause,
    hypercall::{self, Flow},
    image::{Image, Manifest},
    memory::{Access, GuestSpace, Layout},
};
use kernel_hvt_glue::{BindError, Cpu, Hypervisor, Permissions, Vcpu, Vm};

use crate::{
    clock::Clock,
    host::{self, Kernel},
    interrupts,
    ram::{Blocks, GuestRam},
    sleep::Sleeper,
};

/// What a unikernel is started with.
pub(crate) struct Config<'a> {
    /// Guest memory in bytes.
    pub(crate) memory: u64,
    /// Its arguments.
    pub(crate) arguments: &'a [&'a str],
    /// The devices for those that its manifest names.
    pub(crate) slots: Vec<(String, Slot)>,
    /// How it sleeps.
    pub(crate) sleeper: Sleeper,
    /// Timer ticks after which it is given up.
    pub(crate) ticks: u64,
}

/// A unikernel that has been loaded.
pub(crate) struct Unikernel {
    vm: Vm<Kernel>,
    vcpu: Vcpu<Kernel>,
    monitor: Monitor,
}

/// What serves a unikernel's exits.
struct Monitor {
    blocks: Blocks,
    layout: Layout,
    devices: Devices,
    transcript: Transcript,
    counts: Counts,
    deadline: u64,
}

/// How a unikernel ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, with this status.
    Halted(i32),
    /// It did what no guest may.
    Stopped(Stop),
    /// It was given up.
    TimedOut,
}

/// What a unikernel did that it may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Something that its machine does not allow.
    Fault(Cause),
    /// A hypercall that does not exist, or with pointers to what is not the guest's.
    Hypercall(hypercall::Error),
    /// It kicked a ring of this number.
    RingKick(u32),
    /// It waits for an interrupt.
    Halted,
    /// The hypervisor did not run it.
    Bind(BindError),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Halted(status) => write!(f, "status {status}"),
            Self::Stopped(stop) => write!(f, "stopped: {stop}"),
            Self::TimedOut => f.write_str("given up"),
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(cause) => cause.fmt(f),
            Self::Hypercall(error) => error.fmt(f),
            Self::RingKick(ring) => write!(f, "the guest kicked ring {ring}, which it was not offered"),
            Self::Halted => f.write_str("the guest waits for an interrupt (hlt), but there are none"),
            Self::Bind(error) => error.fmt(f),
        }
    }
}

/// Why a unikernel left the virtual CPU, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// By the hypercall's number; index 0 counts the unknown ones.
    hypercalls: [u64; Number::ALL.len() + 1],
    /// Ring kicks.
    kicks: u64,
    /// The end of a time slice.
    interrupted: u64,
}

impl Counts {
    /// All exits that reached the kernel.
    pub(crate) fn total(&self) -> u64 {
        self.hypercalls.iter().sum::<u64>() + self.kicks + self.interrupted
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} exits", self.total())?;
        for (number, count) in self.hypercalls.iter().enumerate().filter(|(_, count)| **count > 0) {
            write!(f, ", {} {count}", Number::from_u32(number as u32).map_or("unknown", Number::name))?;
        }
        for (name, count) in [("kick", self.kicks), ("interrupted", self.interrupted)] {
            if count > 0 {
                write!(f, ", {name} {count}")?;
            }
        }
        Ok(())
    }
}

impl Unikernel {
    /// Loads the unikernel in `file`.
    ///
    /// # Errors
    /// The message of whatever refuses it.
    pub(crate) fn load(hypervisor: &Hypervisor<Kernel>, file: &[u8], config: Config<'_>) -> Result<Self, String> {
        let image = Image::parse(file).map_err(text)?;
        let attached = attach::attach(image.manifest(), config.slots).map_err(text)?;
        let cmdline = CommandLine::from_args(config.arguments).map_err(text)?;
        let boot_config = BootConfig {
            mem_size: config.memory,
            cmdline: &cmdline,
            manifest: &attached.manifest,
            cpu_cycle_freq: Clock::get().frequency(),
            net_ring: None,
        };
        let plan = boot::Plan::new(&image, boot_config).map_err(text)?;
        let mut vm = Vm::new(hypervisor).map_err(text)?;
        let memory = GuestRange::new(Gpa(0), config.memory).ok_or("memory wraps around")?;
        // What the layout leaves out holds descriptors and page tables, which the CPU writes for the guest.
        vm.allocate(memory, Permissions::READ | Permissions::WRITE).map_err(text)?;
        let blocks = Blocks::of(&vm, config.memory);
        let booted = plan.load(&GuestRam::new(&vm, &blocks)).map_err(text)?;
        for region in booted.layout.regions() {
            vm.protect(region.range, permissions(region.access)).map_err(text)?;
        }
        let vcpu = vm.create_vcpu(&booted.entry).map_err(text)?;
        let transcript = Transcript::default();
        let deadline = interrupts::ticks() + config.ticks;
        let devices = Devices {
            console: Box::new(transcript.clone()),
            clock: Box::new(Clock::get()),
            poller: Box::new(config.sleeper.until(deadline)),
            slots: attached.slots,
        };
        let layout = booted.layout;
        let monitor = Monitor { blocks, layout, devices, transcript, counts: Counts::default(), deadline };
        Ok(Self { vm, vcpu, monitor })
    }

    /// Runs until it ends.
    pub(crate) fn run(&mut self, cpu: &mut Cpu<Kernel>) -> End {
        host::set_time_slice(self.monitor.deadline.saturating_sub(interrupts::ticks()));
        let mut bound = match self.vcpu.bind(cpu, &self.vm) {
            Ok(bound) => bound,
            Err(error) => return End::Stopped(Stop::Bind(error)),
        };
        loop {
            let exit = bound.run();
            if let Some(end) = self.monitor.handle(&self.vm, exit, || bound.registers()) {
                return end;
            }
        }
    }

    /// Runs until the next exit and serves it. The caller sets the time slice.
    pub(crate) fn step(&mut self, cpu: &mut Cpu<Kernel>) -> Option<End> {
        match self.vcpu.run(cpu, &self.vm) {
            Ok(exit) => self.monitor.handle(&self.vm, exit, || self.vcpu.registers()),
            Err(error) => Some(End::Stopped(Stop::Bind(error))),
        }
    }

    /// What it has printed.
    pub(crate) fn transcript(&self) -> Vec<u8> {
        self.monitor.transcript.bytes()
    }

    /// How often it left the virtual CPU.
    pub(crate) fn counts(&self) -> Counts {
        self.monitor.counts
    }
}

impl Monitor {
    /// Serves an exit; `Some` when it was the last.
    fn handle(&mut self, vm: &Vm<Kernel>, exit: kernel::Exit, registers: impl FnOnce() -> Registers) -> Option<End> {
        let stop = match exit::to_tender(exit, registers) {
            Exit::Hypercall { number, argument } => return self.serve(vm, number, argument),
            Exit::Interrupted => {
                self.counts.interrupted += 1;
                return (interrupts::ticks() >= self.deadline).then_some(End::TimedOut);
            }
            Exit::RingKick { ring } => {
                self.counts.kicks += 1;
                Stop::RingKick(ring)
            }
            Exit::Halted => Stop::Halted,
            Exit::Fault(fault) => Stop::Fault(fault.cause),
        };
        Some(End::Stopped(stop))
    }

    fn serve(&mut self, vm: &Vm<Kernel>, number: u32, argument: Gpa) -> Option<End> {
        let counter = Number::from_u32(number).map_or(0, |number| number as usize);
        self.counts.hypercalls[counter] += 1;
        let memory = GuestRam::new(vm, &self.blocks);
        let guest = GuestSpace::new(&memory, &self.layout);
        match hypercall::serve(number, argument, &guest, &mut self.devices) {
            Ok(Flow::Continue) => None,
            Ok(Flow::Halt { status, .. }) => Some(End::Halted(status)),
            Ok(Flow::Interrupted) => Some(End::TimedOut),
            Err(error) => Some(End::Stopped(Stop::Hypercall(error))),
        }
    }
}

/// The devices that the unikernel in `file` names.
///
/// # Errors
/// The message of whatever refuses it.
pub(crate) fn manifest(file: &[u8]) -> Result<Manifest, String> {
    Ok(Image::parse(file).map_err(text)?.manifest().clone())
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
