//! TCP/IP peer of the guests on an in-memory network.

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

/// IPv4 host on an in-memory network: connects to guests and accepts their connections, pings them,
/// and serves DHCP and DNS.
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
/// The host runs on a dedicated thread, `hvt-host`, and answers pings. When it is dropped, the
/// thread ends and all connections are reset. IPv6 and IP fragments are not supported. On a
/// [`Link`](super::Link) in real time, the host never sends more frames than the other end has room
/// for.
///
/// On a port in a [`VirtualTime`](crate::VirtualTime), the host takes turns with the guests, and
/// its timeouts are in virtual time: an unanswered request costs no real time. For the same result
/// in every run, [`hold`](Self::hold) the host.
pub struct Host {
    shared: Arc<Shared>,
    address: Ipv4Addr,
    timeout: Duration,
    pings: AtomicU16,
    // Ends the thread on drop.
    _worker: Worker,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Host {
    /// Starts a host with this address and a prefix length of 24 bits.
    ///
    /// # Errors
    /// Returns the errors of [`HostBuilder::start`].
    pub fn new(port: Port, address: impl Into<Ipv4Addr>) -> io::Result<Self> {
        Self::builder(address).start(port)
    }

    /// Returns a builder for a host with this address.
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

    /// Returns the IPv4 address of the host.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Opens a TCP connection to `port` of the host `to`.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::ConnectionRefused`] if `to` does not listen on the port,
    /// [`io::ErrorKind::TimedOut`] if `to` does not answer, and [`io::ErrorKind::InvalidInput`] if
    /// `to` is 0.0.0.0 or the port is 0.
    pub fn connect(&self, to: impl Into<Ipv4Addr>, port: u16) -> io::Result<HostStream> {
        HostStream::connect(&self.shared, self.address, SocketAddrV4::new(to.into(), port), self.timeout)
    }

    /// Listens for TCP connections on a port.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::AddrInUse`] if the host listens on the port already, or if `port`
    /// is 0.
    pub fn listen(&self, port: u16) -> io::Result<HostListener> {
        HostListener::new(&self.shared, port, self.timeout)
    }

    /// Holds the virtual time until the returned value is dropped, except while the caller waits in
    /// an operation of this host or of its connections.
    ///
    /// The computations of the test then cost no virtual time, and two runs give the same result.
    /// Only one thread at a time may use a held host. In real time, the hold has no effect.
    ///
    /// Drop the hold before waiting for any other event in the virtual time, such as the exit of a
    /// guest: the wait would never end.
    pub fn hold(&self) -> HostHold {
        self.shared.hold();
        HostHold { shared: self.shared.clone() }
    }

    /// Sends one ICMP echo request to `to` and returns the round-trip time.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::TimedOut`] if no reply arrives. The request is not repeated: on a
    /// lossy network, call `ping` again. Returns [`io::ErrorKind::HostUnreachable`] if the reply is
    /// a "destination unreachable" message.
    pub fn ping(&self, to: impl Into<Ipv4Addr>) -> io::Result<Duration> {
        self.ping_timeout(to, self.timeout)
    }

    /// Like [`ping`](Self::ping), with a timeout.
    ///
    /// # Errors
    /// Returns the errors of [`ping`](Self::ping).
    pub fn ping_timeout(&self, to: impl Into<Ipv4Addr>, timeout: Duration) -> io::Result<Duration> {
        let ident = self.pings.fetch_add(1, Ordering::Relaxed).max(1);
        ping::ping(&self.shared, to.into(), ident, timeout)
    }
}

/// Guard that holds the virtual time of a [`Host`]: see [`Host::hold`].
#[must_use = "the clock runs again as soon as the hold is dropped"]
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

/// Builder of a [`Host`].
///
/// ```
/// use hvt_tender::network::{Host, Switch};
///
/// let switch = Switch::new();
/// let builder = Host::builder([10, 0, 0, 1]).dhcp([10, 0, 0, 2]).name("db.test", [10, 0, 0, 1]);
/// let host = builder.start(switch.port()?)?;
/// // Port for a guest, which gets 10.0.0.2 by DHCP and resolves "db.test" to the host.
/// let for_the_guest = switch.port()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "the host does not exist until `start` is called"]
pub struct HostBuilder {
    address: Ipv4Addr,
    prefix: u8,
    leases: Option<Ipv4Addr>,
    names: dns::Names,
    timeout: Duration,
    seed: u64,
}

impl HostBuilder {
    /// Sets the prefix length of the host's network in bits, from 1 to 30 (default: 24).
    pub fn prefix_len(mut self, bits: u8) -> Self {
        self.prefix = bits;
        self
    }

    /// Serves DHCP: leases the addresses from `first` to the end of the host's network. The host is
    /// the router of its clients, and their DNS server if it [serves DNS](Self::name).
    pub fn dhcp(mut self, first: impl Into<Ipv4Addr>) -> Self {
        self.leases = Some(first.into());
        self
    }

    /// Serves DNS and adds `address` to the addresses of `name`. Queries for any other name are
    /// answered with `NXDOMAIN`.
    pub fn name(mut self, name: &str, address: impl Into<Ipv4Addr>) -> Self {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.names.entry(name).or_default().push(address.into());
        self
    }

    /// Sets the timeout of the host's operations (default: 30 s).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the seed of the stack's random numbers, such as initial TCP sequence numbers. The
    /// default is 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Starts the host on `port`.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::InvalidInput`] if the address is not a host address in a network of
    /// this prefix length, if the DHCP range is not in the network or is empty, if the port's MAC
    /// address is not unicast, or if its MTU is below 576. Returns the error of eventfd(2) or
    /// clone(2) if the process has no descriptor or thread left.
    pub fn start(self, port: Port) -> io::Result<Host> {
        let invalid = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        let (address, prefix) = (self.address, self.prefix);
        let hosts = usable(address, prefix);
        let Some((network, last)) = hosts.filter(|(first, last)| (*first..=*last).contains(&address)) else {
            return invalid(format!("{address}/{prefix} is not a host address"));
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

/// Returns the first and the last host address in the network of `address`.
fn usable(address: Ipv4Addr, prefix: u8) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let hosts = u32::MAX.checked_shr(prefix.into()).filter(|_| (1..=30).contains(&prefix))?;
    let network = address.to_bits() & !hosts;
    Some((Ipv4Addr::from_bits(network + 1), Ipv4Addr::from_bits(network + hosts - 1)))
}
