//! What is said about devices meets the manifest, and the devices are opened.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use super::descriptors::Descriptors;
use crate::config::{BlockSource, DeviceOptions, Forward, HostLoopback, Named, NetSource};
use crate::device::attach::check;
use crate::device::{
    AttachError, BlockOptions, DirectBlock, Disk, FileBlock, Net, OpenError, Pollable, Tap, TapError, UnixNet,
    UnixNetError, random_mac,
};
use crate::host_file::RecordFile;
use crate::host_limit::Advice;
use crate::image::{DeviceKind, Manifest};
#[cfg(feature = "smoltcp")]
use crate::network::user::{UserNet, UserNetwork};
use crate::network::{Port, Recorded, Switch};
use crate::stop::Stop;
use crate::unikernel::Unikernel;
use crate::virtual_time::VirtualTime;

/// Which device is to be opened how, by name. They match the manifest one to one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    nets: Vec<NetPlan>,
    blocks: Vec<BlockPlan>,
}

#[derive(Debug, PartialEq, Eq)]
struct NetPlan {
    name: String,
    source: NetSource,
    mac: Option<[u8; 6]>,
    user: UserOptions,
    /// Where its frames go as well.
    recording: Option<PathBuf>,
}

/// Options of user-mode networking.
#[derive(Debug, Default, PartialEq, Eq)]
struct UserOptions {
    forwards: Vec<Forward>,
    loopback: HostLoopback,
    opened: Vec<Ipv4Addr>,
}

#[derive(Debug, PartialEq, Eq)]
struct BlockPlan {
    name: String,
    source: BlockSource,
    options: BlockOptions,
    /// Around the host's page cache.
    direct: bool,
}

impl Plan {
    /// Finds out which device of the manifest each option is about.
    pub(super) fn new(options: &DeviceOptions, manifest: &Manifest) -> Result<Self, Error> {
        let net = Names { manifest, kind: DeviceKind::Net };
        let block = Names { manifest, kind: DeviceKind::Block };
        let nets = options.nets.iter().map(|option| {
            let name = net.of(option, "--net")?;
            let (source, recording) = match option.value.clone() {
                NetSource::Pcap(path) => (NetSource::None, Some(path)),
                source => (source, None),
            };
            Ok(NetPlan { name, source, mac: None, user: UserOptions::default(), recording })
        });
        let blocks = options.blocks.iter().map(|option| {
            let said = match option.value {
                BlockSource::File(_) => "--block",
                BlockSource::Copy(_) => "--disk-cow",
            };
            let name = block.of(option, said)?;
            let options = BlockOptions::default();
            Ok(BlockPlan { name, source: option.value.clone(), options, direct: false })
        });
        let mut plan =
            Self { nets: nets.collect::<Result<_, Error>>()?, blocks: blocks.collect::<Result<_, Error>>()? };
        plan.check(manifest)?;
        for mac in &options.macs {
            plan.net(&net.of(mac, "--net-mac")?, "--net-mac")?.mac = Some(mac.value);
        }
        for recording in &options.recordings {
            let option = "--net-pcap";
            plan.net(&net.of(recording, option)?, option)?.recording = Some(recording.value.clone());
        }
        for forward in &options.forwards {
            let option = "--forward";
            plan.user(&net.of(forward, option)?, option)?.forwards.push(forward.value);
        }
        for loopback in &options.loopbacks {
            let option = "--host-loopback";
            let user = plan.user(&net.of(loopback, option)?, option)?;
            user.loopback = std::mem::take(&mut user.loopback).and(loopback.value.clone());
        }
        for address in &options.opened {
            let option = "--net-allow";
            plan.user(&net.of(address, option)?, option)?.opened.push(address.value);
        }
        for size in &options.block_sizes {
            let option = "--block-sector-size";
            plan.block(&block.of(size, option)?, option)?.options.block_size = size.value;
        }
        for read_only in &options.read_only {
            let option = "--block-readonly";
            plan.block(&block.of(read_only, option)?, option)?.options.read_only = true;
        }
        for direct in &options.direct {
            let option = "--block-direct";
            plan.block(&block.of(direct, option)?, option)?.direct = true;
        }
        Ok(plan)
    }

    fn check(&self, manifest: &Manifest) -> Result<(), Error> {
        let nets = self.nets.iter().map(|net| (net.name.as_str(), Some(DeviceKind::Net)));
        let blocks = self.blocks.iter().map(|block| (block.name.as_str(), Some(DeviceKind::Block)));
        check(manifest, nets.chain(blocks)).map_err(|problem| Error::Attach { problem })
    }

    fn net(&mut self, name: &str, option: &'static str) -> Result<&mut NetPlan, Error> {
        let stray = || Error::Stray { option, kind: DeviceKind::Net, name: name.into() };
        self.nets.iter_mut().find(|net| net.name == name).ok_or_else(stray)
    }

    /// The options of a device's user-mode networking, which `option` is about.
    fn user(&mut self, name: &str, option: &'static str) -> Result<&mut UserOptions, Error> {
        match self.net(name, option)? {
            NetPlan { source: NetSource::User, user, .. } => Ok(user),
            net => Err(Error::NotUser { option, name: net.name.clone() }),
        }
    }

    fn block(&mut self, name: &str, option: &'static str) -> Result<&mut BlockPlan, Error> {
        let stray = || Error::Stray { option, kind: DeviceKind::Block, name: name.into() };
        self.blocks.iter_mut().find(|block| block.name == name).ok_or_else(stray)
    }

    /// Opens the devices and attaches them. With a virtual time, in which the guest lives, they live in it as well. A
    /// wait for the reader of a recording ends when `stop` is requested.
    pub(super) fn attach(
        self,
        mut unikernel: Unikernel,
        descriptors: &mut Descriptors,
        time: Option<&VirtualTime>,
        stop: &Stop,
    ) -> Result<Unikernel, Error> {
        for BlockPlan { name, source, options, direct } in self.blocks {
            let attached = match source {
                BlockSource::File(path) if direct => {
                    DirectBlock::open(path, &options).map(|disk| unikernel.block(&name, disk))
                }
                BlockSource::File(path) => FileBlock::open(path, &options).map(|disk| unikernel.block(&name, disk)),
                BlockSource::Copy(_) if options.read_only => return Err(Error::ReadOnlyCopy { name }),
                BlockSource::Copy(_) if direct => return Err(Error::DirectCopy { name }),
                BlockSource::Copy(path) => {
                    Disk::copy_in_blocks(path, options.block_size).map(|disk| unikernel.block(&name, disk))
                }
            };
            unikernel = attached.map_err(|problem| Error::Block { name, problem })?;
        }
        for (number, net) in self.nets.into_iter().enumerate() {
            unikernel = net.attach(number, unikernel, descriptors, time, stop)?;
        }
        Ok(unikernel)
    }
}

impl NetPlan {
    fn attach(
        self,
        number: usize,
        unikernel: Unikernel,
        descriptors: &mut Descriptors,
        time: Option<&VirtualTime>,
        stop: &Stop,
    ) -> Result<Unikernel, Error> {
        let Self { name, source, mac, user: options, recording } = self;
        let plug = Plug { name: name.clone(), recording, stop };
        match source {
            NetSource::None | NetSource::Pcap(_) => plug.port(unikernel, alone(number, mac, time)?),
            _ if time.is_some() => Err(Error::NotVirtual { name }),
            NetSource::Unix(path) => match UnixNet::attach(path, mac) {
                Ok(cable) => plug.device(unikernel, cable),
                Err(problem) => Err(Error::Unix { name, problem }),
            },
            NetSource::User => match user(mac, options) {
                Ok(device) => plug.device(unikernel, device),
                Err(source) => Err(Error::User { name, source }),
            },
            NetSource::Interface(interface) => plug.tap(unikernel, Tap::attach(&interface, mac)),
            NetSource::Descriptor(number) => plug.tap(unikernel, Tap::from_fd(descriptors.take(number)?, mac)),
        }
    }
}

/// Attaches an open network device, and records it where that is wanted.
struct Plug<'s> {
    name: String,
    recording: Option<PathBuf>,
    stop: &'s Stop,
}

impl Plug<'_> {
    fn device(self, unikernel: Unikernel, device: impl Net + Pollable + Send + 'static) -> Result<Unikernel, Error> {
        let Self { name, recording, stop } = self;
        let Some(path) = recording else { return Ok(unikernel.net(name, device)) };
        match RecordFile::create(&path, Some(stop)).and_then(|file| Recorded::to(device, file)) {
            Ok(recorded) => Ok(unikernel.net(name, recorded)),
            Err(source) => Err(Error::Recording { name, path, source }),
        }
    }

    /// A port records itself, with the times that it lives in.
    fn port(self, unikernel: Unikernel, port: Port) -> Result<Unikernel, Error> {
        let Self { name, recording, stop } = self;
        let Some(path) = recording else { return Ok(unikernel.net(name, port)) };
        match RecordFile::create(&path, Some(stop)).and_then(|file| port.recorded_to(file)) {
            Ok(port) => Ok(unikernel.net(name, port)),
            Err(source) => Err(Error::Recording { name, path, source }),
        }
    }

    fn tap(self, unikernel: Unikernel, attached: Result<Tap, TapError>) -> Result<Unikernel, Error> {
        match attached {
            Ok(tap) => self.device(unikernel, tap),
            Err(problem) => Err(Error::Net { name: self.name, problem }),
        }
    }
}

/// A device in user-mode networking.
#[cfg(feature = "smoltcp")]
fn user(mac: Option<[u8; 6]>, options: UserOptions) -> io::Result<UserNet> {
    let UserOptions { forwards, loopback, opened } = options;
    let network = UserNetwork::new().mac(mac.map_or_else(random_mac, Ok)?).host_loopback(loopback);
    let network = opened.into_iter().fold(network, UserNetwork::allow);
    let device = forwards.iter().fold(network, |network, forward| network.forward(*forward)).start()?;
    for (forward, address) in forwards.iter().zip(device.forwarded()) {
        // A port that the host has chosen is known from here only.
        let level = if forward.host.port() == 0 { log::Level::Warn } else { log::Level::Info };
        log::log!(level, "port {} of the guest is at {address}", forward.guest);
    }
    Ok(device)
}

#[cfg(not(feature = "smoltcp"))]
fn user(_: Option<[u8; 6]>, _: UserOptions) -> io::Result<Port> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this tender was built without it (feature smoltcp)"))
}

/// A port with nobody on the other side. In a virtual time, where two runs are to be the same, it has the same hardware
/// address each time.
fn alone(number: usize, mac: Option<[u8; 6]>, time: Option<&VirtualTime>) -> Result<Port, Error> {
    let (switch, mac) = match time {
        Some(time) => (Switch::in_virtual_time(time), mac.unwrap_or([2, 0, 0, 0, 0, number as u8 + 1])),
        None => (Switch::new(), mac.map_or_else(random_mac, Ok).map_err(Error::Host)?),
    };
    Ok(switch.port().map_err(Error::Host)?.with_mac(mac))
}

/// The names of the devices of one kind.
struct Names<'m> {
    manifest: &'m Manifest,
    kind: DeviceKind,
}

impl Names<'_> {
    /// The name of the device that something is said about.
    fn of<T>(&self, said: &Named<T>, option: &'static str) -> Result<String, Error> {
        if let Some(name) = &said.name {
            return Ok(name.clone());
        }
        let same_kind = self.manifest.devices().iter().filter(|device| device.kind == self.kind);
        let mut names: Vec<_> = same_kind.map(|device| device.name.clone()).collect();
        match (names.pop(), names.is_empty()) {
            (Some(only), true) => Ok(only),
            (None, _) => Err(Error::None { option, kind: self.kind }),
            (Some(last), false) => {
                names.push(last);
                Err(Error::Several { option, kind: self.kind, names: names.join(", ") })
            }
        }
    }
}

/// Why the devices cannot be had. The message is one line.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Options and manifest do not match.
    #[error("{problem}{}", hint(problem))]
    Attach { problem: AttachError },
    /// An option without a name, where no device can be meant.
    #[error("{option}: the unikernel declares no {kind} device; leave the option out")]
    None { option: &'static str, kind: DeviceKind },
    /// An option without a name, where several devices can be meant.
    #[error("{option}: the unikernel declares the {kind} devices {names}; say which one is meant: {option} NAME=..")]
    Several { option: &'static str, kind: DeviceKind, names: String },
    /// An option about a device that does not exist.
    #[error("{option}: {kind} device '{name}' not declared in manifest")]
    Stray { option: &'static str, kind: DeviceKind, name: String },
    /// A block device that cannot be had.
    #[error("block device '{name}': {problem}")]
    Block { name: String, problem: OpenError },
    /// A network device that cannot be had.
    #[error("net device '{name}': {problem}")]
    Net { name: String, problem: TapError },
    /// Another tender that cannot be met.
    #[error("net device '{name}': {problem}")]
    Unix { name: String, problem: UnixNetError },
    /// User-mode networking that is not to be had.
    #[error("net device '{name}': no user-mode networking: {source}{}", Advice(source))]
    User { name: String, source: io::Error },
    /// An option of user-mode networking about a device in another network.
    #[error("{option}: net device '{name}' has no user-mode networking, for which say --net {name}=user")]
    NotUser { option: &'static str, name: String },
    /// A copy that is not to be written.
    #[error("block device '{name}': a copy (--disk-cow) is there to be written; leave out --block-readonly")]
    ReadOnlyCopy { name: String },
    /// A copy, which is written to memory.
    #[error("block device '{name}': a copy (--disk-cow) lives in memory; leave out --block-direct")]
    DirectCopy { name: String },
    /// A file for frames that cannot be written.
    #[error("net device '{name}': {}: cannot be written: {source}{}", path.display(), Advice(source))]
    Recording { name: String, path: PathBuf, source: io::Error },
    /// A network of the real world in a virtual time.
    #[error(
        "net device '{name}': its network cannot live in virtual time; with --virtual-time use {name}=none or {name}=pcap:FILE"
    )]
    NotVirtual { name: String },
    /// The host has not enough of something.
    #[error("a network device cannot be made: {}{}", _0, Advice(_0))]
    Host(io::Error),
    /// A descriptor that cannot be had.
    #[error("--net @{number}: the descriptor cannot be used: {source}")]
    Descriptor { number: RawFd, source: io::Error },
}

/// How a device is attached on the command line.
fn hint(error: &AttachError) -> impl fmt::Display {
    match error {
        AttachError::NotAttached { name, kind: DeviceKind::Net } => format!(": --net {name}=INTERFACE"),
        AttachError::NotAttached { name, kind: DeviceKind::Block } => format!(": --block {name}=PATH"),
        _ => String::new(),
    }
}
