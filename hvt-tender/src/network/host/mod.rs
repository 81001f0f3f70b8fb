//! The test's own TCP/IP peer on a network in memory.

mod core;
mod ping;
mod rest;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use self::core::{Core, Shared};
use self::rest::Rest;
use super::Port;
use super::ip::{Stack, Worker, dhcp, dns};

pub use stream::{HostListener, HostStream};

/// A host on a network in memory: talks TCP with the guests, pings them, and gives them addresses and names.
///
/// ```
/// use std::io::{Read, Write};
/// use hvt_tender::network::{Host, Switch};
///
/// let switch = Switch::new();
/// let server = Host::new(switch.port()?, [10, 0, 0, 1])?;
/// let client = Host::new(switch.port()?, [10, 0, 0, 2])?;
/// client.ping([10, 0, 0, 1])?;
///
/// let listener = server.listen(80)?;
/// let mut there = client.connect([10, 0, 0, 1], 80)?;
/// let mut here = listener.accept()?;
/// there.write_all(b"hello")?;
/// let mut heard = [0; 5];
/// here.read_exact(&mut heard)?;
/// assert_eq!(&heard, b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// It lives on a thread of its own and leaves the network when it is dropped: that thread ends, and its connections are
/// reset. It answers pings. IPv4 only, and no fragments. On a [`Link`](super::Link) in real time it sends no more frames
/// than the other end has room for.
///
/// On a port in a [`VirtualTime`](crate::VirtualTime) it takes turns with the guests, and its timeouts are in that time:
/// what nobody answers takes no time. To have the same happen in every run, [`hold`](Self::hold) it.
pub struct Host {
    shared: Arc<Shared>,
    address: Ipv4Addr,
    timeout: Duration,
    pings: AtomicU16,
    // Ends the thread.
    _worker: Worker,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Host {
    /// A host with this address, in a network of 24 bits.
    ///
    /// # Errors
    /// As [`HostBuilder::start`].
    pub fn new(port: Port, address: impl Into<Ipv4Addr>) -> io::Result<Self> {
        Self::builder(address).start(port)
    }

    /// A host with this address that is yet to be told more.
    pub fn builder(address: impl Into<Ipv4Addr>) -> HostBuilder {
        HostBuilder {
            address: address.into(),
            prefix: 24,
            leases: None,
            names: dns::Names::new(),
            timeout: Duration::from_secs(30),
            seed: 0,
        }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Connects to a port of `to`.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionRefused`] when nobody listens there, [`io::ErrorKind::TimedOut`] when nobody answers.
    pub fn connect(&self, to: impl Into<Ipv4Addr>, port: u16) -> io::Result<HostStream> {
        HostStream::connect(&self.shared, self.address, SocketAddrV4::new(to.into(), port), self.timeout)
    }

    /// Listens at a port.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] when it does so already, or the port is 0.
    pub fn listen(&self, port: u16) -> io::Result<HostListener> {
        HostListener::new(&self.shared, port, self.timeout)
    }

    /// Keeps the virtual time that it lives in from moving until the returned value is dropped, except while the caller
    /// waits in one of its operations, or in one of its connections'. Then what a test does with it is part of the guests'
    /// world: it takes no time, and two runs are the same. For one thread at a time, and in real time without effect.
    ///
    /// Nothing else of that time can be waited for meanwhile, the end of a guest, say: drop it before.
    pub fn hold(&self) -> HostHold {
        self.shared.hold();
        HostHold { shared: self.shared.clone() }
    }

    /// Sends an echo request to `to`; returns how long the answer took.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when none comes. One request is sent: where frames get lost, try again.
    pub fn ping(&self, to: impl Into<Ipv4Addr>) -> io::Result<Duration> {
        self.ping_timeout(to, self.timeout)
    }

    /// As [`ping`](Self::ping), with its own patience.
    ///
    /// # Errors
    /// As [`ping`](Self::ping).
    pub fn ping_timeout(&self, to: impl Into<Ipv4Addr>, timeout: Duration) -> io::Result<Duration> {
        let ident = self.pings.fetch_add(1, Ordering::Relaxed).max(1);
        ping::ping(&self.shared, to.into(), ident, timeout)
    }
}

/// Keeps a virtual time from moving while a [`Host`]'s user thinks: see [`Host::hold`].
#[must_use = "time moves again as soon as this is dropped"]
pub struct HostHold {
    shared: Arc<Shared>,
}

impl fmt::Debug for HostHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostHold").finish_non_exhaustive()
    }
}

impl Drop for HostHold {
    fn drop(&mut self) {
        self.shared.release();
    }
}

/// What a [`Host`] is to be.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is started"]
pub struct HostBuilder {
    address: Ipv4Addr,
    prefix: u8,
    leases: Option<Ipv4Addr>,
    names: dns::Names,
    timeout: Duration,
    seed: u64,
}

impl HostBuilder {
    /// Length in bits of the part of its address that all on its network share: 24 unless told otherwise.
    pub fn prefix_len(mut self, bits: u8) -> Self {
        self.prefix = bits;
        self
    }

    /// Serves DHCP: hands out the addresses from `first` on to the end of its network, names itself as the router, and as
    /// the DNS server if it is one.
    pub fn dhcp(mut self, first: impl Into<Ipv4Addr>) -> Self {
        self.leases = Some(first.into());
        self
    }

    /// Serves DNS: `name` has this address, and those that it was given before. It knows no names that it was not told.
    pub fn name(mut self, name: &str, address: impl Into<Ipv4Addr>) -> Self {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.names.entry(name).or_default().push(address.into());
        self
    }

    /// How long its operations wait: 30 s unless told otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Where the chances come from that TCP takes, such as first sequence numbers; 0 where nobody says otherwise.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Joins the network.
    ///
    /// # Errors
    /// When it cannot have this address there, or the host has no descriptor or thread left.
    pub fn start(self, port: Port) -> io::Result<Host> {
        let invalid = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        let (address, prefix) = (self.address, self.prefix);
        let hosts = usable(address, prefix);
        let Some((network, last)) = hosts.filter(|(first, last)| (*first..=*last).contains(&address)) else {
            return invalid(format!("{address}/{prefix} is not the address of a host"));
        };
        let stack = Stack::new(port, &[(address, prefix)], false, self.seed)?;
        let mut core = Core::new(stack, address);
        if let Some(first) = self.leases {
            if !(network..=last).contains(&first) {
                return invalid(format!("{first} is not an address in the network of {address}/{prefix}"));
            }
            let dns = (!self.names.is_empty()).then_some(address);
            let offer = dhcp::Offer { server: address, prefix, router: Some(address), dns, range: (first, last) };
            core.dhcp = Some(dhcp::Server::start(&mut core.stack, offer)?);
        }
        if !self.names.is_empty() {
            core.dns = Some(dns::Server::start(&mut core.stack, self.names)?);
        }
        let (rest, doorbell, time) = Rest::new(&core.stack)?;
        core.stack.wake_by(doorbell.clone());
        let shared = Arc::new(Shared::new(core, doorbell.clone(), time));
        let theirs = shared.clone();
        let worker = Worker::start("hvt-host", doorbell, move || theirs.serve(rest))?;
        Ok(Host { shared, address, timeout: self.timeout, pings: AtomicU16::new(1), _worker: worker })
    }
}

/// The first and last address of hosts in the network of `address`.
fn usable(address: Ipv4Addr, prefix: u8) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let hosts = u32::MAX.checked_shr(prefix.into()).filter(|_| (1..=30).contains(&prefix))?;
    let network = address.to_bits() & !hosts;
    Some((Ipv4Addr::from_bits(network + 1), Ipv4Addr::from_bits(network + hosts - 1)))
}
