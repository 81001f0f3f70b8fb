//! The command line on Redox: what of it there is there, and the run.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::manner::Manner;
use super::start::start;
use super::{FAILED, fault, signals};
use crate::backend::Stop;
use crate::config::{BlockSource, Config, DeviceOptions, Named, NetRing, NetSource};
use crate::device::{BlockOptions, FileBlock, SchemeNet};
use crate::image::{DeviceKind, Manifest};
use crate::monitor::Outcome;
use crate::unikernel::Unikernel;

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
    let unikernel = Unikernel::load(&config.kernel).map_err(Failed::plain)?;
    let arguments = config.arguments.into_iter().map(OsString::into_vec);
    let unikernel = unikernel.mem(config.memory).args(arguments).backend(config.backend).stop(stop);
    match attach(unikernel, &config.devices)?.run().map_err(Failed::plain)? {
        Outcome::Exited { status, .. } => Ok(status),
        Outcome::Failed(failure) => {
            // Read again only now: a guest that ends well needs no names.
            fault::report(manner, &failure, &fs::read(&config.kernel).unwrap_or_default());
            Ok(FAILED)
        }
        Outcome::Interrupted => {
            Err(Failed::plain(format_args!("stopped by {}", signals::received().unwrap_or("request"))))
        }
        Outcome::Asleep => Err(Failed::plain("the guest waits for ever")),
        Outcome::Exceeded(limit) => Err(Failed::plain(limit)),
    }
}

/// Names what this system has not.
fn refuse_the_rest(config: &Config) -> Result<(), Failed> {
    let DeviceOptions { recordings, forwards, direct, .. } = &config.devices;
    for (given, option) in [
        (config.core_directory.is_some(), "--dumpcore"),
        (config.identity.user.is_some(), "--user"),
        (config.identity.root.is_some(), "--chroot"),
        (config.trace.is_some(), "--trace"),
        (config.timeout.is_some(), "--timeout"),
        (config.virtual_time, "--virtual-time"),
        (config.gdb || config.gdb_socket.is_some(), "--gdb"),
        (!config.sandbox, "--no-sandbox"),
        (config.net_ring != NetRing::default(), "--net-ring"),
        (!recordings.is_empty(), "--net-pcap"),
        (!forwards.is_empty(), "--forward"),
        (!direct.is_empty(), "--block-direct"),
    ] {
        if given {
            return Err(Failed::plain(format_args!("{option} is not to be had on Redox; leave it out")));
        }
    }
    Ok(())
}

/// Opens and attaches every device that an option is about.
fn attach(mut unikernel: Unikernel, options: &DeviceOptions) -> Result<Unikernel, Failed> {
    let manifest = &unikernel.manifest().clone();
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
        unikernel = unikernel.block(name, device);
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
        unikernel = unikernel.net(name, device);
    }
    Ok(unikernel)
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
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
