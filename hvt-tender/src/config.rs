//! What a user wants, as plain data: what a command line says before anything has been looked at.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use hvt_abi::{MEM_GRANULE, MEM_MAX};

/// Guest memory in bytes where nobody says otherwise: 512 MiB.
pub const DEFAULT_MEMORY: u64 = 512 << 20;

/// The port for a debugger where nobody says otherwise: that of Solo5's tenders.
pub const DEFAULT_GDB_PORT: u16 = 1234;

/// How a unikernel is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The unikernel's file.
    pub kernel: PathBuf,
    /// The guest's arguments.
    pub arguments: Vec<OsString>,
    /// Guest memory in bytes, as wished: [`memory_size`] makes it fit.
    pub memory: u64,
    /// What runs the guest.
    pub backend: BackendChoice,
    /// Where a core file goes if it crashes.
    pub core_directory: Option<PathBuf>,
    /// Its devices.
    pub devices: DeviceOptions,
    /// Whether the guest is offered a ring for the frames that it sends.
    pub net_ring: NetRing,
    /// Who the tender becomes once it has opened everything.
    pub identity: Identity,
    /// Whether it is confined while the guest runs.
    pub sandbox: bool,
    /// Where one line of JSON a hypercall goes.
    pub trace: Option<PathBuf>,
    /// How long it may take, in the host's time.
    pub timeout: Option<Duration>,
    /// Whether time is to move only when the guest has nothing to do.
    pub virtual_time: bool,
    /// Whether it waits for a debugger before its first instruction.
    pub gdb: bool,
    /// The TCP port of 127.0.0.1 at which it does, 0 for one that is free.
    pub gdb_port: u16,
    /// The Unix socket at which it does instead.
    pub gdb_socket: Option<PathBuf>,
    /// How much more than warnings goes to the log: 0 nothing, 1 information, 2 and more what helps debugging.
    pub verbosity: u8,
}

impl Config {
    /// The unikernel `kernel` without devices and arguments, and the defaults of everything else.
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

/// Who the tender becomes once it has opened everything that it needs. Both concern the whole process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user, with whose group alone; otherwise it stays whose it is.
    pub user: Option<User>,
    /// The directory that becomes the root of the file system.
    pub root: Option<PathBuf>,
}

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What runs the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BackendChoice {
    /// KVM where the CPU can run guests and `/dev/kvm` may be opened, a sandboxed process otherwise; on Redox its kernel's
    /// hypervisor.
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
    /// All of them, with the names that users know them by.
    pub const ALL: [(&'static str, Self); 4] =
        [("auto", Self::Auto), ("kvm", Self::Kvm), ("process", Self::Process), ("redox", Self::Redox)];

    /// The one of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, choice)| *choice)
    }
}

/// Whether the guest is offered a [ring](hvt_abi::ring) for the frames that it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NetRing {
    /// On KVM, if there is a CPU for the thread that serves it, beside the guest's.
    #[default]
    Auto,
    /// Wherever its network devices allow it.
    On,
    /// Nowhere.
    Off,
}

impl NetRing {
    /// All of them, with the names that users know them by.
    pub const ALL: [(&'static str, Self); 3] = [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];

    /// The one of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, choice)| *choice)
    }
}

/// What is said about devices, in the order in which it is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Network devices.
    pub nets: Vec<Named<NetSource>>,
    /// Files for what passes through network devices, in the pcap format.
    pub recordings: Vec<Named<PathBuf>>,
    /// Hardware addresses of network devices.
    pub macs: Vec<Named<[u8; 6]>>,
    /// Ports of the host that lead to network devices.
    pub forwards: Vec<Named<Forward>>,
    /// Ports of the host's loopback that network devices reach.
    pub loopbacks: Vec<Named<HostLoopback>>,
    /// Addresses that network devices reach although they are closed by default.
    pub opened: Vec<Named<Ipv4Addr>>,
    /// Block devices.
    pub blocks: Vec<Named<BlockSource>>,
    /// Block sizes of block devices in bytes.
    pub block_sizes: Vec<Named<u64>>,
    /// Block devices that are not to be written.
    pub read_only: Vec<Named<()>>,
    /// Block devices to be reached around the host's page cache.
    pub direct: Vec<Named<()>>,
}

/// Something said about the device of this name; without a name, about the only device of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<T> {
    /// Name of the device in the guest's manifest.
    pub name: Option<String>,
    /// What is said.
    pub value: T,
}

impl<T> Named<T> {
    /// The same device, with `f` done to what is said.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Named<U> {
        Named { name: self.name, value: f(self.value) }
    }

    /// The same device, with the result of `f`.
    ///
    /// # Errors
    /// Returns the error of `f`.
    pub fn try_map<U, E>(self, f: impl FnOnce(T) -> Result<U, E>) -> Result<Named<U>, E> {
        Ok(Named { name: self.name, value: f(self.value)? })
    }
}

/// What a block device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockSource {
    /// The file or block device of this path.
    File(PathBuf),
    /// A copy of it, which vanishes with the guest.
    Copy(PathBuf),
}

/// Where a network device's frames come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetSource {
    /// Nowhere: nobody is on the other side.
    None,
    /// Likewise, and what the guest sends goes to this file, in the pcap format.
    Pcap(PathBuf),
    /// Another tender that names the same path.
    Unix(PathBuf),
    /// What this program can reach.
    User,
    /// The tap interface of this name.
    Interface(OsString),
    /// This open descriptor.
    Descriptor(RawFd),
}

/// A port of the host that leads to a port of the guest, in user-mode networking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where the host listens for TCP connections; at a port of its own choice where that is 0.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest: u16,
}

impl Forward {
    /// From a port of the host's loopback, 127.0.0.1, to a port of the guest.
    #[must_use]
    pub fn tcp(host: u16, guest: u16) -> Self {
        Self { host: (Ipv4Addr::LOCALHOST, host).into(), guest }
    }
}

/// Ports of the host's loopback that a guest in user-mode networking reaches at 10.0.2.2.
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
    /// Returns whether the guest reaches this port.
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

/// Guest memory of `bytes` bytes, made to fit: a multiple of 2 MiB, rounded down, but not to nothing.
///
/// # Errors
/// [`MemoryOutOfRange`] for no memory, and for more than 4 GiB.
pub fn memory_size(bytes: u64) -> Result<u64, MemoryOutOfRange> {
    if bytes == 0 || bytes > MEM_MAX {
        return Err(MemoryOutOfRange);
    }
    Ok((bytes / MEM_GRANULE * MEM_GRANULE).max(MEM_GRANULE))
}

/// No guest can have this much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest memory must be 2 to {} MB: say so with --mem", MEM_MAX >> 20)]
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
