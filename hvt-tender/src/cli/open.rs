//! Opens the devices that the command line names.

use std::io;
use std::path::PathBuf;

use super::descriptors::{DescriptorError, Descriptors};
use super::devices::DevicePlan;
use super::devices::block::BlockPlan;
use super::devices::net::{NetPlan, UserOptions};
use crate::cancel::CancelToken;
use crate::config::{BlockSource, NetSource};
use crate::device::{
    Disk, FileBlock, HostInterface, HostInterfaceError, Net, OpenError, Pollable, UnixNetError, open_cable,
    open_direct, open_interface, random_mac, take_interface,
};
use crate::network::user::{UserNet, UserNetwork};
use crate::network::{Port, Recorded, Switch};
use crate::record_file::RecordFile;
use crate::unikernel::Unikernel;
use crate::virtual_time::VirtualTime;

impl DevicePlan {
    /// Opens the devices and attaches them. With a `time`, the devices run in the guest's virtual
    /// time. Waiting for the reader of a recording ends when `stop` is requested.
    pub(super) fn attach(
        self,
        mut unikernel: Unikernel,
        descriptors: &mut Descriptors,
        time: Option<&VirtualTime>,
        stop: &CancelToken,
    ) -> Result<Unikernel, AttachError> {
        for BlockPlan { name, source, options, direct } in self.blocks {
            let attached = match source {
                BlockSource::File(path) if direct => {
                    open_direct(path, &options).map(|disk| unikernel.block(&name, disk))
                }
                BlockSource::File(path) => FileBlock::open(path, &options).map(|disk| unikernel.block(&name, disk)),
                BlockSource::Copy(_) if options.read_only => return Err(AttachError::ReadOnlyCopy { name }),
                BlockSource::Copy(_) if direct => return Err(AttachError::DirectCopy { name }),
                BlockSource::Copy(path) => {
                    Disk::copy_in_blocks(path, options.block_size).map(|disk| unikernel.block(&name, disk))
                }
            };
            unikernel = attached.map_err(|source| AttachError::Block { name, source })?;
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
        stop: &CancelToken,
    ) -> Result<Unikernel, AttachError> {
        let Self { name, source, mac, user: options, recording } = self;
        let plug = Plug { name: name.clone(), recording, stop };
        match source {
            NetSource::None | NetSource::Pcap(_) => plug.port(unikernel, alone(number, mac, time)?),
            _ if time.is_some() => Err(AttachError::NotVirtual { name }),
            NetSource::Unix(path) => match open_cable(path, mac) {
                Ok(cable) => plug.device(unikernel, cable),
                Err(source) => Err(AttachError::Unix { name, source }),
            },
            NetSource::User => match user(mac, options) {
                Ok(device) => plug.device(unikernel, device),
                Err(source) => Err(AttachError::User { name, source }),
            },
            NetSource::Interface(interface) => plug.interface(unikernel, open_interface(&interface, mac)),
            NetSource::Descriptor(number) => plug.interface(unikernel, take_interface(descriptors.take(number)?, mac)),
        }
    }
}

/// Attaches an open network device, with a recording if requested.
struct Plug<'s> {
    name: String,
    recording: Option<PathBuf>,
    stop: &'s CancelToken,
}

impl Plug<'_> {
    fn device(
        self,
        unikernel: Unikernel,
        device: impl Net + Pollable + Send + 'static,
    ) -> Result<Unikernel, AttachError> {
        let Self { name, recording, stop } = self;
        let Some(path) = recording else { return Ok(unikernel.net(name, device)) };
        match RecordFile::create(&path, Some(stop)).and_then(|file| Recorded::to(device, file)) {
            Ok(recorded) => Ok(unikernel.net(name, recorded)),
            Err(source) => Err(AttachError::Recording { name, path, source }),
        }
    }

    /// Attaches a port. A port writes its own recording, because the timestamps come from its
    /// clock.
    fn port(self, unikernel: Unikernel, port: Port) -> Result<Unikernel, AttachError> {
        let Self { name, recording, stop } = self;
        let Some(path) = recording else { return Ok(unikernel.net(name, port)) };
        match RecordFile::create(&path, Some(stop)).and_then(|file| port.recorded_to(file)) {
            Ok(port) => Ok(unikernel.net(name, port)),
            Err(source) => Err(AttachError::Recording { name, path, source }),
        }
    }

    fn interface(
        self,
        unikernel: Unikernel,
        attached: Result<HostInterface, HostInterfaceError>,
    ) -> Result<Unikernel, AttachError> {
        match attached {
            Ok(interface) => self.device(unikernel, interface),
            Err(source) => Err(AttachError::Net { name: self.name, source }),
        }
    }
}

/// Creates a device on a user-mode network.
fn user(mac: Option<[u8; 6]>, options: UserOptions) -> io::Result<UserNet> {
    let UserOptions { forwards, loopback, opened } = options;
    let network = UserNetwork::new().mac(mac.map_or_else(random_mac, Ok)?).host_loopback(loopback);
    let network = opened.into_iter().fold(network, UserNetwork::allow);
    let device = forwards.iter().fold(network, |network, forward| network.forward(*forward)).start()?;
    for (forward, address) in forwards.iter().zip(device.forwarded()) {
        // A port chosen by the host appears in this message only, so it is a warning.
        let level = if forward.host.port() == 0 { log::Level::Warn } else { log::Level::Info };
        log::log!(level, "guest port {} is reachable at {address}", forward.guest);
    }
    Ok(device)
}

/// Creates a port without a peer. In virtual time, two runs must be identical, so the default
/// hardware address is fixed.
fn alone(number: usize, mac: Option<[u8; 6]>, time: Option<&VirtualTime>) -> Result<Port, AttachError> {
    let (switch, mac) = match time {
        Some(time) => (Switch::in_virtual_time(time), mac.unwrap_or([2, 0, 0, 0, 0, number as u8 + 1])),
        None => (Switch::new(), mac.map_or_else(random_mac, Ok).map_err(AttachError::Host)?),
    };
    Ok(switch.port().map_err(AttachError::Host)?.with_mac(mac))
}

/// Device that cannot be opened. The message is one line.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    /// Block device that cannot be opened.
    #[error("block device '{name}'")]
    Block { name: String, source: OpenError },
    /// Interface of the host that cannot be attached.
    #[error("net device '{name}'")]
    Net { name: String, source: HostInterfaceError },
    /// Socket between two tenders that cannot be opened.
    #[error("net device '{name}'")]
    Unix { name: String, source: UnixNetError },
    /// User-mode networking that cannot start.
    #[error("net device '{name}': cannot start user-mode networking")]
    User { name: String, source: io::Error },
    /// Copy-on-write block device with `--block-readonly`: the copy exists to be written.
    #[error("block device '{name}': a copy (--disk-cow) is writable: remove --block-readonly")]
    ReadOnlyCopy { name: String },
    /// Copy-on-write block device with `--block-direct`: the copy is in memory.
    #[error("block device '{name}': a copy (--disk-cow) is in memory: remove --block-direct")]
    DirectCopy { name: String },
    /// Recording that cannot be written.
    #[error("net device '{name}': {}: cannot be written", path.display())]
    Recording { name: String, path: PathBuf, source: io::Error },
    /// Network of the host together with virtual time.
    #[error(
        "net device '{name}': host networks do not run in virtual time: with --virtual-time use {name}=none or {name}=pcap:FILE"
    )]
    NotVirtual { name: String },
    /// Exhausted resource of the host.
    #[error("cannot create a network device")]
    Host(#[source] io::Error),
    /// Descriptor that cannot be used.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
}
