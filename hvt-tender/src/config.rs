//! Configuration of a run as plain data, parsed from a command line and not yet checked against the
//! host or the unikernel.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use hvt_abi::{MEM_GRANULE, MEM_MAX};

/// Default size of guest memory in bytes: 512 MiB.
pub(crate) const DEFAULT_MEMORY: u64 = 512 << 20;

/// Default TCP port for a debugger, the same as that in Solo5's tenders.
pub(crate) const DEFAULT_GDB_PORT: u16 = 1234;

/// Configuration of a unikernel's run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The unikernel's file.
    pub kernel: PathBuf,
    /// The guest's arguments.
    pub arguments: Vec<OsString>,
    /// Requested guest memory in bytes; [`memory_size`] rounds and checks the size.
    pub memory: u64,
    /// Backend that runs the guest.
    pub backend: BackendChoice,
    /// Directory for a core file if the guest crashes.
    pub core_directory: Option<PathBuf>,
    /// Devices of the guest.
    pub devices: DeviceOptions,
    /// Condition under which the guest is offered a transmit ring.
    pub net_ring: NetRing,
    /// User and root directory that the tender changes to once all files are open.
    pub identity: Identity,
    /// Confines the tender while the guest runs.
    pub sandbox: bool,
    /// File for the trace, one line of JSON per hypercall.
    pub trace: Option<PathBuf>,
    /// Longest run time, in the host's time.
    pub timeout: Option<Duration>,
    /// Runs the guest in virtual time: the clock advances only while the guest sleeps.
    pub virtual_time: bool,
    /// Waits for a debugger before the first instruction.
    pub gdb: bool,
    /// TCP port of 127.0.0.1 for the debugger, 0 for a free port.
    pub gdb_port: u16,
    /// Unix socket for the debugger, instead of the TCP port.
    pub gdb_socket: Option<PathBuf>,
    /// Log level: 0 for warnings, 1 for information, 2 and more for debug messages.
    pub verbosity: u8,
}

impl Config {
    /// Creates a configuration for the unikernel `kernel` without devices and arguments. All other
    /// fields have their defaults.
    #[must_use]
    pub fn new(kernel: impl Into<PathBuf>) -> Self {
        Self {
            kernel: kernel.into(),
            arguments: Vec::new(),
            memory: DEFAULT_MEMORY,
            backend: BackendChoice::default(),
            core_directory: None,
            devices: DeviceOptions::default(),
            net_ring: NetRing::default(),
            identity: Identity::default(),
            sandbox: true,
            trace: None,
            timeout: None,
            virtual_time: false,
            gdb: false,
            gdb_port: DEFAULT_GDB_PORT,
            gdb_socket: None,
            verbosity: 0,
        }
    }
}

/// User and root directory of the tender once all files are open. Both apply to the whole process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User to change to, with this group alone. `None` keeps the current user and groups.
    pub user: Option<User>,
    /// Directory that becomes the root of the file system.
    pub root: Option<PathBuf>,
}

/// User and group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Backend that runs the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BackendChoice {
    /// On Linux: KVM if the CPU can run guests and `/dev/kvm` can be opened, otherwise a sandboxed
    /// process. On Redox: the hypervisor of its kernel.
    #[default]
    Auto,
    /// KVM.
    Kvm,
    /// A sandboxed process.
    Process,
    /// The Redox kernel's hypervisor.
    Redox,
}

impl BackendChoice {
    /// All backends, with their names on the command line.
    pub const ALL: [(&'static str, Self); 4] =
        [("auto", Self::Auto), ("kvm", Self::Kvm), ("process", Self::Process), ("redox", Self::Redox)];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, choice)| *choice == self).map_or("", |(name, _)| name)
    }

    /// Returns the backend with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, choice)| *choice)
    }
}

/// Condition under which the guest is offered a [ring](hvt_abi::ring) for the frames that it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NetRing {
    /// On KVM, if the thread that serves the ring has a CPU besides the guest's.
    #[default]
    Auto,
    /// On every backend, if the network devices support it.
    On,
    /// Never.
    Off,
}

impl NetRing {
    /// All conditions, with their names on the command line.
    pub const ALL: [(&'static str, Self); 3] = [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, choice)| *choice == self).map_or("", |(name, _)| name)
    }

    /// Returns the condition with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, choice)| *choice)
    }
}

/// Device options, in the order of the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Network devices.
    pub nets: Vec<Named<NetSource>>,
    /// Files that record the frames of network devices, in the pcap format.
    pub recordings: Vec<Named<PathBuf>>,
    /// Hardware addresses of network devices.
    pub macs: Vec<Named<[u8; 6]>>,
    /// Ports of the host that are forwarded to network devices.
    pub forwards: Vec<Named<Forward>>,
    /// Ports of the host's loopback interface that network devices can reach.
    pub loopbacks: Vec<Named<HostLoopback>>,
    /// Addresses that network devices can reach although they are closed by default.
    pub opened: Vec<Named<Ipv4Addr>>,
    /// Block devices.
    pub blocks: Vec<Named<BlockSource>>,
    /// Block sizes of block devices in bytes.
    pub block_sizes: Vec<Named<u64>>,
    /// Block devices that refuse writes.
    pub read_only: Vec<Named<()>>,
    /// Block devices that bypass the host's page cache.
    pub direct: Vec<Named<()>>,
}

/// Option for the device with this name; without a name, for the only device of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<T> {
    /// Name of the device in the guest's manifest.
    pub name: Option<String>,
    /// Value of the option.
    pub value: T,
}

impl<T> Named<T> {
    /// Applies `f` to the value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Named<U> {
        Named { name: self.name, value: f(self.value) }
    }

    /// Applies the fallible `f` to the value.
    ///
    /// # Errors
    /// Returns the error of `f`.
    pub fn try_map<U, E>(self, f: impl FnOnce(T) -> Result<U, E>) -> Result<Named<U>, E> {
        Ok(Named { name: self.name, value: f(self.value)? })
    }
}

/// Contents of a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockSource {
    /// The file or block device at this path.
    File(PathBuf),
    /// A copy of the file or block device at this path. The copy is discarded with the guest.
    Copy(PathBuf),
}

/// Network of a network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetSource {
    /// No peer: sent frames are dropped.
    None,
    /// No peer: sent frames are recorded in this file, in the pcap format.
    Pcap(PathBuf),
    /// A second tender with the same path, connected through a Unix socket.
    Unix(PathBuf),
    /// User-mode networking: the guest reaches the networks that this process can reach.
    User,
    /// The tap interface with this name.
    Interface(OsString),
    /// An open descriptor.
    Descriptor(RawFd),
}

/// Port of the host that is forwarded to a port of the guest, in user-mode networking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Address on which the host listens for TCP connections; with port 0 the host chooses a free
    /// port.
    pub host: SocketAddr,
    /// Port of the guest.
    pub guest: u16,
}

impl Forward {
    /// Forwards a port of the host's loopback address, 127.0.0.1, to a port of the guest.
    #[must_use]
    pub fn tcp(host: u16, guest: u16) -> Self {
        Self { host: (Ipv4Addr::LOCALHOST, host).into(), guest }
    }
}

/// Ports of the host's loopback address that a guest in user-mode networking reaches through
/// 10.0.2.2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostLoopback {
    /// No port.
    #[default]
    Closed,
    /// These ports.
    Ports(BTreeSet<u16>),
    /// All ports.
    All,
}

impl HostLoopback {
    /// Returns whether the guest can reach this port.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        match self {
            Self::Closed => false,
            Self::Ports(ports) => ports.contains(&port),
            Self::All => true,
        }
    }

    /// Opens the ports of `more` as well.
    #[must_use]
    pub fn and(self, more: Self) -> Self {
        match (self, more) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (Self::Closed, one) | (one, Self::Closed) => one,
            (Self::Ports(mut ports), Self::Ports(more)) => {
                ports.extend(more);
                Self::Ports(ports)
            }
        }
    }
}

/// Rounds a size of guest memory down to a multiple of 2 MiB, but not below 2 MiB.
///
/// # Errors
/// Returns [`MemoryOutOfRange`] if `bytes` is 0 or above 4 GiB.
pub(crate) fn memory_size(bytes: u64) -> Result<u64, MemoryOutOfRange> {
    if bytes == 0 || bytes > MEM_MAX {
        return Err(MemoryOutOfRange);
    }
    Ok((bytes / MEM_GRANULE * MEM_GRANULE).max(MEM_GRANULE))
}

/// Size of guest memory out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest memory must be 2 to {} MB: choose another --mem", MEM_MAX >> 20)]
pub struct MemoryOutOfRange;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_rounded_down_to_2_mib_but_not_to_nothing() {
        const MIB: u64 = 1 << 20;
        assert_eq!(memory_size(0), Err(MemoryOutOfRange));
        assert_eq!(memory_size(1), Ok(2 * MIB));
        assert_eq!(memory_size(3 * MIB), Ok(2 * MIB));
        assert_eq!(memory_size(4 * MIB - 1), Ok(2 * MIB));
        assert_eq!(memory_size(4 * MIB), Ok(4 * MIB));
        assert_eq!(memory_size(4096 * MIB), Ok(4096 * MIB));
        assert_eq!(memory_size(4096 * MIB + 1), Err(MemoryOutOfRange));
        assert_eq!(memory_size(u64::MAX), Err(MemoryOutOfRange));
    }
}
