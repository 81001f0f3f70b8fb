//! A unikernel outside of its virtual machine: loading it, and serving what it leaves the machine for.

use alloc::{boxed::Box, format, string::String, vec::Vec};
use core::fmt;

use hvt_abi::{Gpa, hypercall::Number, native::EntryState};
use hvt_core::{
    Exit,
    boot::{BootConfig, CommandLine, Plan},
    device::{Clock, Devices, Poller, Slot, attach},
    exit::Cause,
    hypercall::{self, Flow},
    image::{Image, Manifest},
    memory::{GuestMemory, GuestSpace, Layout},
};

use crate::devices::Transcript;

/// What a unikernel is started with.
pub struct Config<'a> {
    /// Its arguments.
    pub arguments: &'a [&'a str],
    /// The devices for those that its manifest names.
    pub slots: Vec<(String, Slot)>,
    /// Its wall clock.
    pub clock: Box<dyn Clock>,
    /// How it sleeps.
    pub poller: Box<dyn Poller>,
    /// Frequency of its cycle counter in Hz.
    pub cycle_frequency: u64,
}

/// What serves a unikernel's exits.
pub struct Monitor {
    layout: Layout,
    devices: Devices,
    transcript: Transcript,
    counts: Counts,
}

/// How a unikernel ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Halted(i32),
    /// It did what no guest may.
    Stopped(Stop),
    /// It was given up.
    TimedOut,
}

/// What a unikernel did that it may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Something that its machine does not allow.
    Fault(Cause),
    /// A hypercall that does not exist, or with pointers to what is not the guest's.
    Hypercall(hypercall::Error),
    /// It kicked a ring of this number.
    RingKick(u32),
    /// It waits for an interrupt.
    Halted,
    /// Its machine did not run it, for this reason.
    Refused(String),
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
            Self::Refused(reason) => f.write_str(reason),
        }
    }
}

/// Why a unikernel left the virtual CPU, counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// By the hypercall's number; index 0 counts the unknown ones.
    hypercalls: [u64; Number::ALL.len() + 1],
    /// Ring kicks.
    kicks: u64,
    /// The end of a time slice.
    interrupted: u64,
}

impl Counts {
    /// All exits that reached the monitor.
    #[must_use]
    pub fn total(&self) -> u64 {
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

impl Monitor {
    /// Loads the unikernel in `file` into `memory`. Returns what its virtual CPU starts with, too.
    ///
    /// # Errors
    /// The message of whatever refuses it.
    pub fn load(file: &[u8], config: Config<'_>, memory: &dyn GuestMemory) -> Result<(Self, EntryState), String> {
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
        let booted = Plan::new(&image, boot_config).map_err(text)?.load(memory).map_err(text)?;
        let transcript = Transcript::default();
        let devices = Devices {
            console: Box::new(transcript.clone()),
            clock: config.clock,
            poller: config.poller,
            slots: attached.slots,
        };
        let monitor = Self { layout: booted.layout, devices, transcript, counts: Counts::default() };
        Ok((monitor, booted.entry))
    }

    /// Serves an exit; `Some` when it was the last. Whether it is time to give up is for the caller to say, whenever the
    /// exit is [`Exit::Interrupted`].
    #[inline]
    pub fn handle(&mut self, memory: &impl GuestMemory, exit: Exit) -> Option<End> {
        let stop = match exit {
            Exit::Hypercall { number, argument } => return self.serve(memory, number, argument),
            Exit::Interrupted => {
                self.counts.interrupted += 1;
                return None;
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

    /// Serves a hypercall; `Some` when it was the last.
    pub fn serve(&mut self, memory: &impl GuestMemory, number: u32, argument: Gpa) -> Option<End> {
        let counter = Number::from_u32(number).map_or(0, |number| number as usize);
        self.counts.hypercalls[counter] += 1;
        let guest = GuestSpace::new(memory, &self.layout);
        match hypercall::serve(number, argument, &guest, &mut self.devices) {
            Ok(Flow::Continue) => None,
            Ok(Flow::Halt { status, .. }) => Some(End::Halted(status)),
            Ok(Flow::Interrupted) => Some(End::TimedOut),
            Err(error) => Some(End::Stopped(Stop::Hypercall(error))),
        }
    }

    /// What the unikernel may do with its memory.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What it has printed.
    #[must_use]
    pub fn transcript(&self) -> Vec<u8> {
        self.transcript.bytes()
    }

    /// How often it left the virtual CPU.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

/// The devices that the unikernel in `file` names.
///
/// # Errors
/// The message of whatever refuses it.
pub fn manifest(file: &[u8]) -> Result<Manifest, String> {
    Ok(Image::parse(file).map_err(text)?.manifest().clone())
}

fn text(error: impl fmt::Display) -> String {
    format!("{error}")
}
