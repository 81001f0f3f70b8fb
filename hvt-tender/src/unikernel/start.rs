//! Start of a unikernel: from its configuration to a guest that is ready for its first instruction.

use std::io;
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::sync::Arc;

use hvt_abi::{BOOT_INFO_BASE, BootInfo, Gpa};

use super::settings::{Extras, Waits};
use super::started::{Both, Started};
use crate::backend::frequency::{Frequency, Source};
use crate::backend::{self, CancelToken, CycleCounter, auto};
use crate::boot::{BootConfig, BootError, BootPlan, CommandLine};
use crate::config::{BackendChoice, NetRing, memory_size};
use crate::core_dump::CoreDump;
use crate::device::{Attached, CapturedOutput, Console, Devices, FdConsole, FdPoller, Poller, Slot, attach};
use crate::image::Manifest;
use crate::measure::{LimitedConsole, Trace, Verdict};
use crate::ring::{self, Offer};
use crate::sys::cpu_clock::CpuClock;
use crate::unikernel::{RunPart, Taken, Unikernel, UnikernelError, with_handles};
use crate::virtual_time::{VirtualPoller, VirtualTime};

impl Unikernel {
    /// Prepares the guest for its first instruction. The guest must run on the calling thread.
    pub(crate) fn start(self, stop: CancelToken, capture: Option<CapturedOutput>) -> Result<Started, UnikernelError> {
        let Extras { limits, virtual_time, trace, core_dump, debugger, net_ring, identity, sandbox, cycle_frequency } =
            self.extras;
        let image = self.loaded.borrow_dependent();
        let mem_size = memory_size(self.memory)?;
        if mem_size != self.memory {
            log::warn!("guest memory is rounded to {} MB, a multiple of 2 MB", mem_size >> 20);
        }
        let cmdline = CommandLine::from_args(self.arguments)?;
        let Taken { slots, waits } = Taken::from(self.attachments)?;
        let own_console = Self::take_console(self.console)?;
        let trace = trace.map(|trace| trace.take(|| RunPart::Trace)).transpose()?;
        let debugger = debugger.map(|debugger| debugger.take(|| RunPart::Debugger)).transpose()?;
        let poller = poller(waits, image.manifest(), virtual_time.as_ref(), &stop)?;
        let clock = match &virtual_time {
            Some(time) => Box::new(time.wall_clock()),
            None => Self::take_clock(self.clock)?,
        };
        let Attached { mut slots, manifest } = attach(image.manifest(), slots)?;
        for slot in &mut slots {
            if let Slot::Block(device) = slot {
                device.wait_by(Arc::new(stop.clone()));
            }
        }
        let verdict = Verdict::new(stop.clone());
        let mut console = console(own_console, capture.clone(), &stop);
        if let Some(most) = limits.console {
            console = Box::new(LimitedConsole::new(console, most, verdict.clone()));
        }
        // If frames are observed, each frame must be a hypercall.
        let seen = capture.is_some() || trace.is_some() || virtual_time.is_some() || debugger.is_some();
        let choice = match self.backend {
            // Only the process backend supports virtual time.
            BackendChoice::Auto if virtual_time.is_some() => auto::with_cycle_counter(),
            choice => choice,
        };
        let mut backend = auto::open(choice)?;
        let offered = match net_ring {
            // The number of CPUs is checked last, because it requires reading files of the host.
            NetRing::Auto => !seen && ring::has_use(&slots) && backend.gains_by_rings() && ring::Worker::pays(),
            NetRing::On => !seen,
            NetRing::Off => false,
        };
        let ends = if offered { ring::second_ends(&slots).zip(ring::place(mem_size)) } else { None };
        let devices = Devices { console, clock, poller, slots };
        // All files are open. Privileges are dropped before the backend creates anything else, in
        // particular a child process, which inherits the remaining privileges.
        identity.drop_privileges()?;
        if let Some(sandbox) = &sandbox {
            let mut descriptors = devices.descriptors();
            descriptors.extend(debugger.as_ref().and_then(|debugger| debugger.descriptor()));
            sandbox.drop_rights(&descriptors, core_dump.as_deref().map(CoreDump::directory))?;
        }
        log::debug!("backend {}, {} MB of memory", backend.name(), mem_size >> 20);
        let backend_name = backend.name();
        if debugger.is_some() {
            backend = backend.for_debugger();
        }
        let mut known = None;
        if let Some(time) = virtual_time.clone() {
            known = Some(Frequency { hz: VirtualTime::FREQUENCY, source: Source::Virtual });
            let counter = CycleCounter::new(move || time.read());
            let unsupported = UnikernelError::Unsupported { backend: backend_name, what: "a virtual time" };
            backend = backend.with_cycle_counter(counter).ok_or(unsupported)?;
        }
        let memory = backend.memory(mem_size + ends.as_ref().map_or(0, |_| ring::SIZE))?;
        let ring = ends.map(|(ends, place)| {
            let offer = Offer::new(memory.clone(), place, ends)?;
            backend.kick_rings(offer.doorbell().as_fd())?;
            Ok((offer, place))
        });
        let ring =
            ring.transpose().map_err(|source| backend::BackendError { what: "creating a network ring", source })?;
        let net_ring = ring.as_ref().map(|(_, place)| *place);
        if known.is_none() {
            known = backend.cycle_frequency().transpose()?;
        }
        let cpu_cycle_freq = known.map_or(0, |frequency| frequency.hz);
        let config = BootConfig { mem_size, cmdline: &cmdline, manifest: &manifest, cpu_cycle_freq, net_ring };
        let booted = BootPlan::new(image, config)?.load(&memory)?;
        // The file has been copied to guest memory.
        drop(self.loaded);
        let mut machine = backend.start(memory, &booted.memory_map, &booted.entry, &stop)?;
        let frequency = match known {
            Some(frequency) => frequency,
            None => {
                // The measurement has run in parallel to the steps above.
                let found = cycle_frequency.finish()?;
                let field = Gpa(BOOT_INFO_BASE.0 + offset_of!(BootInfo, cpu_cycle_freq) as u64);
                machine.memory().write(field, &found.hz.to_le_bytes()).map_err(BootError::from)?;
                found
            }
        };
        log::debug!("guest cycle counter: {} Hz, according to {}", frequency.hz, frequency.source);
        if limits.memory.is_some() && machine.memory_usage().is_err() {
            return Err(UnikernelError::Unsupported {
                backend: backend_name,
                what: "a limit on the memory that a guest touches",
            });
        }
        if limits.cpu_time.is_some() && !CpuClock::EXISTS {
            return Err(UnikernelError::Unsupported { backend: backend_name, what: "a limit of CPU time" });
        }
        if debugger.is_some() && machine.debug().is_none() {
            return Err(UnikernelError::Unsupported { backend: backend_name, what: "a debugger" });
        }
        let trace = trace.map(|to| Trace::new(to, virtual_time));
        Ok(Started {
            machine,
            // Without the ring behind the memory: hypercalls must not access it.
            memory_map: booted.memory_map.below(Gpa(mem_size)),
            devices,
            limits,
            verdict,
            capture,
            trace,
            core_dump,
            debugger,
            stop,
            ring: ring.map(|(offer, _)| offer),
            sandbox,
            usage: None,
        })
    }
}

/// Returns the guest's console: its own console, the captured output, both, or standard output.
fn console(
    own: Option<Box<dyn Console + Send>>,
    capture: Option<CapturedOutput>,
    stop: &CancelToken,
) -> Box<dyn Console> {
    match (own, capture) {
        (None, None) => Box::new(FdConsole::new(io::stdout(), stop.clone())),
        (None, Some(capture)) => Box::new(capture),
        (Some(console), None) => console,
        (Some(console), Some(capture)) => Box::new(Both(console, capture)),
    }
}

/// Returns the guest's poller, for real or for virtual time.
fn poller(
    waits: Vec<(String, Waits)>,
    manifest: &Manifest,
    time: Option<&VirtualTime>,
    stop: &CancelToken,
) -> Result<Box<dyn Poller>, UnikernelError> {
    let waits = with_handles(manifest, waits);
    Ok(match time {
        Some(time) => Box::new(virtual_poller(time, waits, manifest, stop)?),
        None => {
            let endpoints = waits.into_iter().map(|(handle, waits)| (handle, waits.endpoint));
            Box::new(FdPoller::new(stop.clone(), endpoints))
        }
    })
}

/// Returns a poller in virtual time.
///
/// # Errors
/// Returns [`UnikernelError::NotVirtual`] if a network device does not use virtual time.
fn virtual_poller(
    time: &VirtualTime,
    waits: Vec<(u32, Waits)>,
    manifest: &Manifest,
    stop: &CancelToken,
) -> Result<VirtualPoller, UnikernelError> {
    let arrivals = waits.into_iter().map(|(handle, waits)| {
        let name = || manifest.devices().get(handle as usize - 1).map(|device| device.name.clone());
        let arrivals = waits.arrivals.ok_or_else(|| UnikernelError::NotVirtual { name: name().unwrap_or_default() })?;
        Ok((handle, arrivals))
    });
    VirtualPoller::new(time.clone(), arrivals.collect::<Result<_, UnikernelError>>()?, stop.clone())
        .map_err(UnikernelError::Stop)
}
