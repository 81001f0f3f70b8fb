//! The command line on Redox: what of it there is there, and the run.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::manner::Manner;
use super::start::start;
use super::{FAILED, fault, signals};
use crate::backend::redox::{Redox, System, cycle_frequency};
use crate::backend::{self, Machine, Stop, Unavailable};
use crate::boot::{BootConfig, CommandLine, Plan};
use crate::config::{BackendChoice, BlockSource, Config, DeviceOptions, Named, NetSource, memory_size};
use crate::device::{
    BlockOptions, Devices, Endpoint, FdConsole, FdPoller, FileBlock, Pollable, SchemeNet, Slot, SystemClock, attach,
};
use crate::image::{DeviceKind, Image, Manifest};
use crate::memory::PrivateMemory;
use crate::monitor::{self, Outcome};

/// Does what the command line says; returns the status to exit with.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> i32 {
    start(args, |config, manner| {
        run(config, manner).unwrap_or_else(|error| {
            manner.report(&error);
            FAILED
        })
    })
}

/// Runs a unikernel; returns the status to exit with.
fn run(config: Config, manner: Manner) -> Result<i32, Failed> {
    refuse_the_rest(&config)?;
    let stop = Stop::new().map_err(Failed::of("preparing the run's end"))?;
    signals::stop_on_signals(&stop).map_err(Failed::of("handling signals"))?;
    let file = fs::read(&config.kernel).map_err(|error| Failed::at(&config.kernel, error))?;
    let image = Image::parse(&file).map_err(|error| Failed::at(&config.kernel, error))?;
    let mem_size = memory_size(config.memory).map_err(Failed::plain)?;
    let cmdline =
        CommandLine::from_args(config.arguments.into_iter().map(OsString::into_vec)).map_err(Failed::plain)?;
    let (slots, endpoints) = open(&config.devices, image.manifest())?;
    let attached = attach(image.manifest(), slots).map_err(Failed::plain)?;
    let mut devices = Devices {
        console: Box::new(FdConsole::new(io::stdout(), stop.clone())),
        clock: Box::new(SystemClock),
        poller: Box::new(FdPoller::new(stop.clone(), endpoints)),
        slots: attached.slots,
    };
    let hypervisor = Redox::open(System).map_err(Failed::plain)?;
    let memory = PrivateMemory::new(mem_size).map_err(Failed::of("mapping guest memory"))?;
    let boot_config = BootConfig {
        mem_size,
        cmdline: &cmdline,
        manifest: &attached.manifest,
        cpu_cycle_freq: cycle_frequency(),
        net_ring: None,
    };
    let booted = Plan::new(&image, boot_config).map_err(Failed::plain)?.load(&memory).map_err(Failed::plain)?;
    let mut machine = hypervisor.start(memory, &booted.layout, &booted.entry, &stop).map_err(Failed::plain)?;
    let outcome = end(&mut machine, &booted.layout, &mut devices)?;
    match outcome {
        Outcome::Exited { status, .. } => Ok(status),
        Outcome::Failed(failure) => {
            fault::report(manner, &failure, &file);
            Ok(FAILED)
        }
        Outcome::Interrupted => {
            Err(Failed::plain(format_args!("stopped by {}", signals::received().unwrap_or("request"))))
        }
        Outcome::Exceeded(limit) => Err(Failed::plain(limit)),
    }
}

/// Runs the guest to its end, and brings what it has written to the disk.
fn end(machine: &mut dyn Machine, layout: &crate::memory::Layout, devices: &mut Devices) -> Result<Outcome, Failed> {
    let outcome: Result<Outcome, backend::Error> = monitor::run(machine, layout, devices);
    let synced = devices.sync();
    let outcome = outcome.map_err(Failed::plain)?;
    match synced {
        Err(_) => Err(Failed::plain("what the guest has written could not be brought to the disk")),
        Ok(()) => Ok(outcome),
    }
}

/// Names what this system has not.
fn refuse_the_rest(config: &Config) -> Result<(), Failed> {
    let backend = match config.backend {
        BackendChoice::Auto | BackendChoice::Redox => None,
        BackendChoice::Kvm => Some("kvm"),
        BackendChoice::Process => Some("process"),
    };
    if let Some(backend) = backend {
        return Err(Failed::plain(Unavailable { backend, reason: "this is Redox: leave --backend out".into() }));
    }
    let DeviceOptions { recordings, forwards, direct, .. } = &config.devices;
    for (given, option) in [
        (config.core_directory.is_some(), "--dumpcore"),
        (config.identity.user.is_some(), "--user"),
        (config.identity.root.is_some(), "--chroot"),
        (config.trace.is_some(), "--trace"),
        (config.timeout.is_some(), "--timeout"),
        (config.virtual_time, "--virtual-time"),
        (!recordings.is_empty(), "--pcap"),
        (!forwards.is_empty(), "--forward"),
        (!direct.is_empty(), "--block-direct"),
    ] {
        if given {
            return Err(Failed::plain(format_args!("{option} is not to be had on Redox; leave it out")));
        }
    }
    Ok(())
}

/// The devices, by name, and what tells of frames, by handle.
type Opened = (Vec<(String, Slot)>, Vec<(u32, std::sync::Arc<Endpoint>)>);

/// Opens every device that something is said about.
fn open(options: &DeviceOptions, manifest: &Manifest) -> Result<Opened, Failed> {
    let (mut slots, mut endpoints) = (Vec::new(), Vec::new());
    for block in &options.blocks {
        let name = name_of(block, DeviceKind::Block, manifest)?;
        let BlockSource::File(path) = &block.value else {
            return Err(Failed::plain(format_args!(
                "block device '{name}': there are no copies (--disk-cow) on Redox"
            )));
        };
        let mut settings = BlockOptions::default();
        for size in &options.block_sizes {
            if name_of(size, DeviceKind::Block, manifest)? == name {
                settings.block_size = size.value;
            }
        }
        for read_only in &options.read_only {
            settings.read_only |= name_of(read_only, DeviceKind::Block, manifest)? == name;
        }
        let device = FileBlock::open(path, &settings);
        let device = device.map_err(|error| Failed::plain(format_args!("block device '{name}': {error}")))?;
        slots.push((name, Slot::Block(Box::new(device))));
    }
    for net in &options.nets {
        let name = name_of(net, DeviceKind::Net, manifest)?;
        let NetSource::Interface(path) = &net.value else {
            return Err(Failed::plain(format_args!(
                "net device '{name}': on Redox it is the path of a network scheme"
            )));
        };
        let mut mac = None;
        for given in &options.macs {
            if name_of(given, DeviceKind::Net, manifest)? == name {
                mac = Some(given.value);
            }
        }
        let device = SchemeNet::open(Path::new(path), mac);
        let device = device.map_err(|error| {
            Failed::plain(format_args!("net device '{name}': {}: {error}", Path::new(path).display()))
        })?;
        // Handles begin at 1. A device that is not declared is refused by `attach`.
        let declared = manifest.devices().iter().zip(1..).find(|(declared, _)| declared.name == name);
        endpoints.extend(declared.map(|(_, handle)| (handle, device.endpoint())));
        slots.push((name, Slot::Net(Box::new(device))));
    }
    Ok((slots, endpoints))
}

/// The device that something is said about: the only one of its kind, where it is not named.
fn name_of<T>(said: &Named<T>, kind: DeviceKind, manifest: &Manifest) -> Result<String, Failed> {
    if let Some(name) = &said.name {
        return Ok(name.clone());
    }
    let mut same_kind = manifest.devices().iter().filter(|device| device.kind == kind);
    match (same_kind.next(), same_kind.next()) {
        (Some(only), None) => Ok(only.name.clone()),
        (None, _) => Err(Failed::plain(format_args!("the unikernel declares no {kind} device"))),
        (Some(_), Some(_)) => {
            Err(Failed::plain(format_args!("the unikernel declares several {kind} devices: say which")))
        }
    }
}

/// Why there is no exit status of a guest, in one line.
#[derive(Debug)]
struct Failed(String);

impl Failed {
    fn plain(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }

    fn of<E: fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }

    fn at(path: &Path, error: impl fmt::Display) -> Self {
        Self(format!("{}: {error}", path.display()))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
