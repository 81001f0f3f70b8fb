//! User-mode networking: a guest on a network of its own, whose gateway is the tender.
//!
//! It needs no rights and no interface of the host. What the guest sends to the world beyond goes through ordinary
//! sockets of this process, as if this process had sent it:
//!
//! | address | what is there |
//! |---|---|
//! | 10.0.2.15 | the guest: DHCP gives it this address |
//! | 10.0.2.2 | the gateway; as a destination, the [open ports](UserNetwork::host_loopback) of the host's 127.0.0.1 |
//! | 10.0.2.3 | port 53 of the host's DNS server |
//! | others | the same address, as far as the host gets there |
//!
//! These are the addresses that QEMU's user networking has too. A guest without DHCP is given them as its own:
//! `10.0.2.15/24` with the gateway `10.0.2.2`. TCP and UDP are carried, nothing else; pings are answered for 10.0.2.2 and
//! 10.0.2.3 alone. The world does not reach the guest, except through what is [forwarded](UserNetwork::forward).
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
//! # What a guest can do with it
//!
//! It can reach what the user who runs the tender can reach: that is its purpose. Three exceptions:
//!
//! - The host's loopback is closed, unless [`UserNetwork::host_loopback`] opens all or some of its ports. The host's name
//!   server is reached at 10.0.2.3 even if it is a service of the loopback, such as 127.0.0.53.
//! - Link-local addresses, and those at which clouds answer questions about a machine (168.63.129.16, 100.100.100.200 and
//!   192.0.0.192), are closed, unless [`UserNetwork::allow`] opens one.
//! - It cannot connect to a [debugger](crate::gdb::Debugger) for which a guest of this process waits.
//!
//! The addresses of the host's interfaces are not loopback: a service that listens on all addresses is reached there, as
//! from any other machine. A service that only the host is to reach listens on 127.0.0.1 alone.
//!
//! It cannot reach multicast addresses, nor pretend to be another host towards the world. It has 256 TCP connections and 64 UDP associations at a time (what is beyond is refused, or
//! takes the place of the oldest), each with buffers of fixed size, and a queue of 1024 frames: it can make itself wait,
//! and nobody else. While its queue is full nothing more is taken from the host's sockets, so TCP loses no frame there; a
//! datagram is lost where the host's socket has no room for it. UDP datagrams that do not fit in a frame are lost: nothing
//! is fragmented. IPv4 only; a DNS server or
//! nothing else of the host's is spoken to over IPv6.
//!
//! # Why a stack in the tender, and not passt
//!
//! passt speaks Ethernet over a socket and does the same from outside, well and fast, and both are kept up. But passt is a
//! second program: it must be there (not every distribution has it), be started, watched and confined next to the tender,
//! and its protocol has no version. smoltcp is a library in safe Rust, released every few months, with fuzz targets for
//! what comes from the network; with it a unikernel has a network wherever the one file of the tender runs. And it is what
//! a test's [`Host`](super::Host) is made of: one stack for both. Its limit is speed, as every byte is copied in the
//! tender; who needs more takes a tap, or the descriptor of another program's socket.
//!
//! # The thread
//!
//! All of it, every socket included, is done by one thread, `hvt-net`, that [`UserNetwork::start`] makes and that ends
//! when the device is dropped. Sockets that listen are made before it starts. Of the kernel it needs:
//!
//! | for | system calls |
//! |---|---|
//! | waiting | `ppoll`; `read` and `write` of eventfds |
//! | connections | `socket` (AF_INET, AF_INET6; TCP, UDP), `bind`, `connect`, `accept4`, `getsockopt` (SO_ERROR), `setsockopt` (TCP_NODELAY, SO_LINGER), `ioctl` (FIONBIO), `shutdown`, `close`, `recvfrom`, `sendto` |
//! | threads, memory, time | `prctl` (PR_SET_NAME), `futex`, `mmap`, `munmap`, `mremap`, `mprotect`, `madvise`, `brk`, `clock_gettime`, `sched_yield` |
//! | its end | `exit`, `rt_sigprocmask`, `sigaltstack`, `rseq`, `set_robust_list` |
//! | saying what is wrong | `write` to the standard error |

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

/// What a user-mode network is to be.
#[derive(Clone, Debug, Default)]
#[must_use = "nothing happens before it is started"]
pub struct UserNetwork {
    forwards: Vec<Forward>,
    loopback: HostLoopback,
    opened: Vec<Ipv4Addr>,
    resolver: Option<SocketAddr>,
    mac: Option<[u8; 6]>,
}

impl UserNetwork {
    /// A network from which the guest gets out, and nobody in.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets others in through a port of the host.
    pub fn forward(mut self, forward: Forward) -> Self {
        self.forwards.push(forward);
        self
    }

    /// Opens ports of the host's loopback, 127.0.0.1, to the guest, which reaches them at 10.0.2.2. It replaces what was
    /// opened before. By default all are closed.
    pub fn host_loopback(mut self, ports: HostLoopback) -> Self {
        self.loopback = ports;
        self
    }

    /// Opens an address that is closed by default because hosts in a cloud are told secrets there: a link-local one
    /// (169.254.0.0/16), 168.63.129.16, 100.100.100.200 or 192.0.0.192.
    pub fn allow(mut self, address: Ipv4Addr) -> Self {
        self.opened.push(address);
        self
    }

    /// Where DNS queries go: unless told otherwise to the first server that `/etc/resolv.conf` names, or 127.0.0.1.
    pub fn resolver(mut self, server: SocketAddr) -> Self {
        self.resolver = Some(server);
        self
    }

    /// Gives the guest's device this hardware address; 02:00:00:00:00:01 unless told otherwise.
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = Some(mac);
        self
    }

    /// Makes the guest's device, and begins to serve it.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if an address that is [allowed](Self::allow) is not one of those that this can open.
    /// When a port of the host cannot be listened at, with its address in the message, or the host has no descriptor
    /// or thread left.
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
        // First sequence numbers are not to be guessed from outside.
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

/// A network device in user-mode networking. Dropping it ends all of the guest's connections, and the thread behind it.
#[derive(Debug)]
pub struct UserNet {
    guest: Port,
    /// What is readable while a frame of the guest's waits.
    gateway: Arc<Endpoint>,
    forwarded: Vec<SocketAddr>,
    doorbell: Arc<StackDoorbell>,
    /// To the thread.
    jobs: Sender<Job>,
    // Ends the thread.
    _worker: Worker,
}

impl UserNet {
    /// Where the host listens for the guest, in the order in which it was told to.
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

    /// Also those that wake the thread, which uses the same.
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
        // A thread that has ended has logged the reason.
        let _ = self.jobs.send(job);
        self.doorbell.ring();
    }
}
