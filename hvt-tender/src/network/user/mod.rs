//! User-mode networking: a private network for one guest, with the tender as its gateway.
//!
//! It needs neither privileges nor a host interface. The tender translates the guest's connections
//! and datagrams to sockets of its own process:
//!
//! | address | destination |
//! |---|---|
//! | 10.0.2.15 | the guest, which gets this address by DHCP |
//! | 10.0.2.2 | the gateway; as a destination, the [open ports](UserNetwork::host_loopback) of the host's 127.0.0.1 |
//! | 10.0.2.3 | port 53 of the host's DNS server |
//! | any other | the same address, if the host reaches it |
//!
//! QEMU's user networking uses the same addresses. Configure a guest without DHCP statically:
//! address `10.0.2.15/24`, gateway `10.0.2.2`. Only TCP and UDP are translated. Pings are answered
//! for 10.0.2.2 and 10.0.2.3 only. Connections to the guest are possible only through
//! [forwarded ports](UserNetwork::forward).
//!
//! ```
//! use hvt_tender::network::user::{Forward, UserNetwork};
//!
//! let device = UserNetwork::new().forward(Forward::tcp(0, 80)).start()?;
//! println!("the guest's port 80 is at {}", device.forwarded()[0]);
//! // Unikernel::load("http.hvt")?.net("service", device)
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Security
//!
//! A guest reaches every address that the user who runs the tender reaches, with these exceptions:
//!
//! - The host's loopback is closed unless [`UserNetwork::host_loopback`] opens some or all of its
//!   ports. The host's DNS server is reached at 10.0.2.3 even if it is a service on the loopback,
//!   such as 127.0.0.53.
//! - Link-local addresses and the metadata services of clouds (168.63.129.16, 100.100.100.200 and
//!   192.0.0.192) are closed unless [`UserNetwork::allow`] opens them.
//! - The port of a [debugger](crate::gdb::Debugger) is closed while a guest of this process waits
//!   for its connection.
//! - Multicast addresses are closed.
//!
//! The addresses of the host's interfaces are not loopback addresses: the guest reaches a service
//! that listens on all addresses, as any other machine does. Bind a service that only the host may
//! reach to 127.0.0.1.
//!
//! The guest cannot use the address of another host towards the outside.
//!
//! # Limits
//!
//! - A guest has at most 256 TCP connections; further connections are refused.
//! - A guest has at most 64 UDP associations; a new association replaces the one that was silent
//!   for longest.
//! - Each connection and association has buffers of fixed size, and the guest has a queue of 1024
//!   frames. A guest that does not read its frames delays only itself.
//! - While the queue is full, the tender reads no data from the host's sockets. TCP therefore loses
//!   no frame in the queue; a datagram is lost if the buffer of the host's socket is full.
//! - Nothing is fragmented: a UDP datagram that does not fit in one frame is lost.
//! - The guest's network is IPv4 only. IPv6 is used only towards the host's DNS server.
//!
//! # Alternatives: passt
//!
//! passt provides the same network over a socket that carries Ethernet frames. It is fast and
//! maintained. But passt is a second program: it must be installed (not every distribution has it),
//! started, supervised and confined next to the tender, and its protocol has no version. smoltcp is
//! a library in safe Rust, released every few months, with fuzz targets for its packet parsers: a
//! guest has a network wherever the single binary of the tender runs. A test's
//! [`Host`](super::Host) uses the same stack. The drawback of smoltcp is throughput, because the
//! tender copies every byte. For more throughput, use a tap interface or the socket of another
//! program such as passt.
//!
//! # Thread
//!
//! One thread, `hvt-net`, runs the stack and uses all sockets. [`UserNetwork::start`] starts the
//! thread after it has opened the listening sockets; the thread ends when the device is dropped. It
//! uses these system calls:
//!
//! | purpose | system calls |
//! |---|---|
//! | waiting | `ppoll`; `read` and `write` of eventfds |
//! | connections | `socket` (AF_INET, AF_INET6; TCP, UDP), `bind`, `connect`, `accept4`, `getsockopt` (SO_ERROR), `setsockopt` (TCP_NODELAY, SO_LINGER), `ioctl` (FIONBIO), `shutdown`, `close`, `recvfrom`, `sendto` |
//! | threads, memory, time | `prctl` (PR_SET_NAME), `futex`, `mmap`, `munmap`, `mremap`, `mprotect`, `madvise`, `brk`, `clock_gettime`, `sched_yield` |
//! | thread exit | `exit`, `rt_sigprocmask`, `sigaltstack`, `rseq`, `set_robust_list` |
//! | logging | `write` to standard error |

mod addresses;
mod forward;
mod gate;
mod proxy;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crossbeam_channel::{Sender, unbounded};

use self::addresses::Policy;
use self::forward::Door;
use self::proxy::Proxy;
use super::ip::{StackDoorbell, Worker};
use super::{Link, Port};
use crate::device::{Arrivals, Descriptor, DeviceError, Endpoint, HelperThread, Job, Net, Pollable, Uses};
use crate::memory::GuestSlice;

pub use crate::config::{Forward, HostLoopback};

/// Builder of a user-mode network.
#[derive(Clone, Debug, Default)]
#[must_use = "the network does not exist until `start` is called"]
pub struct UserNetwork {
    forwards: Vec<Forward>,
    loopback: HostLoopback,
    opened: Vec<Ipv4Addr>,
    resolver: Option<SocketAddr>,
    mac: Option<[u8; 6]>,
}

impl UserNetwork {
    /// Creates a network without forwarded ports, in which the host's loopback, link-local
    /// addresses and metadata services are closed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forwards a port of the host to a port of the guest.
    pub fn forward(mut self, forward: Forward) -> Self {
        self.forwards.push(forward);
        self
    }

    /// Sets the open ports of the host's loopback, 127.0.0.1, which the guest reaches at 10.0.2.2.
    /// By default, all ports are closed. A second call replaces the ports of the first.
    pub fn host_loopback(mut self, ports: HostLoopback) -> Self {
        self.loopback = ports;
        self
    }

    /// Opens an address that is closed by default because metadata services of clouds hand out
    /// credentials there: a link-local address (169.254.0.0/16), 168.63.129.16, 100.100.100.200 or
    /// 192.0.0.192.
    pub fn allow(mut self, address: Ipv4Addr) -> Self {
        self.opened.push(address);
        self
    }

    /// Sets the destination of DNS queries. The default is the first server in `/etc/resolv.conf`,
    /// or 127.0.0.1 if it has none.
    pub fn resolver(mut self, server: SocketAddr) -> Self {
        self.resolver = Some(server);
        self
    }

    /// Sets the hardware address of the guest's device (default: 02:00:00:00:00:01).
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = Some(mac);
        self
    }

    /// Creates the guest's network device and starts the thread behind it.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if an [allowed](Self::allow) address is not closed
    /// by default. Returns the error of bind(2) or listen(2), with the address in its message, if a
    /// forwarded port of the host is in use or not permitted. Returns the error of eventfd(2) or
    /// clone(2) if the process has no descriptor or thread left.
    pub fn start(self) -> io::Result<UserNet> {
        if let Some(address) = self.opened.iter().find(|address| !addresses::is_withheld(**address)) {
            let what =
                format!("{address} cannot be allowed: only link-local and metadata addresses are closed by default");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let doors = self.forwards.iter().map(Door::open).collect::<io::Result<Vec<_>>>()?;
        let forwarded = doors.iter().map(Door::address).collect();
        let (mut guest, ours) = Link::new().ports()?;
        if let Some(mac) = self.mac {
            guest = guest.with_mac(mac);
        }
        let gateway = ours.endpoint();
        // The initial TCP sequence numbers must be unpredictable for other hosts.
        let seed = RandomState::new().build_hasher().finish();
        let resolver = self.resolver.unwrap_or_else(addresses::host_resolver);
        let policy = Policy { resolver, loopback: self.loopback, opened: self.opened };
        let doorbell = StackDoorbell::new()?;
        let ours = ours.with_mac(addresses::gateway_mac(guest.mac()));
        let mut proxy = Proxy::new(ours, doors, policy, doorbell.clone(), seed)?;
        let (jobs, theirs) = (unbounded(), doorbell.clone());
        let worker = Worker::start("hvt-net", doorbell.clone(), move || proxy.serve(&theirs, &jobs.1))?;
        Ok(UserNet { guest, gateway, forwarded, doorbell, jobs: jobs.0, _worker: worker })
    }
}

/// Network device of a guest in user-mode networking. When it is dropped, all connections of the
/// guest are closed and its thread ends.
#[derive(Debug)]
pub struct UserNet {
    guest: Port,
    /// Descriptor that is readable while a frame from the guest is queued.
    gateway: Arc<Endpoint>,
    forwarded: Vec<SocketAddr>,
    doorbell: Arc<StackDoorbell>,
    /// Sender of jobs to the thread.
    jobs: Sender<Job>,
    // Ends the thread on drop.
    _worker: Worker,
}

impl UserNet {
    /// Returns the addresses of the host's forwarded ports, in the order of the
    /// [`UserNetwork::forward`] calls.
    #[must_use]
    pub fn forwarded(&self) -> &[SocketAddr] {
        &self.forwarded
    }
}

impl Pollable for UserNet {
    fn endpoint(&self) -> Arc<Endpoint> {
        self.guest.endpoint()
    }

    fn arrivals(&self) -> Option<Arc<dyn Arrivals>> {
        self.guest.arrivals()
    }
}

impl Net for UserNet {
    fn mac(&self) -> [u8; 6] {
        Net::mac(&self.guest)
    }

    fn mtu(&self) -> u16 {
        Net::mtu(&self.guest)
    }

    fn send(&mut self, frame: GuestSlice<'_>) -> Result<(), DeviceError> {
        Net::send(&mut self.guest, frame)
    }

    fn receive(&mut self, into: GuestSlice<'_>) -> Result<Option<u64>, DeviceError> {
        Net::receive(&mut self.guest, into)
    }

    /// Returns the descriptors of the guest's port and of the thread's doorbell. The thread uses
    /// the same descriptors.
    fn descriptors(&self) -> Vec<Descriptor> {
        let uses = Uses::READ | Uses::WRITE;
        let mut all = self.guest.descriptors();
        all.extend([Descriptor::new(&*self.gateway, uses), Descriptor::new(&*self.doorbell, uses)]);
        all
    }

    fn helper_threads(&self) -> Vec<&dyn HelperThread> {
        vec![self]
    }
}

impl HelperThread for UserNet {
    fn descriptors(&self) -> Vec<Descriptor> {
        Net::descriptors(self)
    }

    fn uses_internet(&self) -> bool {
        true
    }

    fn execute(&self, job: Job) {
        // `send` fails only if the thread has ended, and then the thread has logged the reason.
        let _ = self.jobs.send(job);
        self.doorbell.ring();
    }
}
