//! A TCP/IP stack on a network device, based on smoltcp without a heap.

use core::time::Duration;

use guest_bindings::clock::{self, Instant};
use guest_bindings::{DeviceError, Net, StartInfo, println, yield_until};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet, SocketStorage};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::{dhcpv4, dns, tcp};
use smoltcp::time;
use smoltcp::wire::{DnsQueryType, EthernetAddress, IpAddress, IpCidr, Ipv4Address, Ipv4Cidr};

use crate::{failure, option};

/// Timeout for DHCP and for name resolution.
const PATIENCE: Duration = Duration::from_secs(60);
/// Maximum length of a frame in bytes.
const FRAME: usize = 14 + 1500;
/// Maximum sleep when no timer is pending.
const NAP: Duration = Duration::from_secs(3600);

/// Memory for a stack.
pub struct Storage<'a> {
    sockets: [SocketStorage<'a>; 8],
    queries: [Option<dns::DnsQuery>; 1],
}

impl Storage<'_> {
    /// Creates memory for 6 sockets in addition to the stack's own sockets.
    pub const fn new() -> Self {
        Self { sockets: [const { SocketStorage::EMPTY }; 8], queries: [const { None }] }
    }
}

impl Default for Storage<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// A stack with an address.
pub struct Ip<'a> {
    interface: Interface,
    device: NetDevice,
    /// Sockets of the stack.
    pub sockets: SocketSet<'a>,
    dns: SocketHandle,
    start: Instant,
}

impl<'a> Ip<'a> {
    /// Configures the stack from the arguments `ip=ADDRESS/BITS`, `gateway=ADDRESS` (default route)
    /// and `dns=ADDRESS` (name server). Without `ip`, DHCP provides all three.
    pub fn new(net: Net, start: &StartInfo, storage: &'a mut Storage<'a>) -> Self {
        let mut device = NetDevice { net };
        let mut config = Config::new(EthernetAddress(device.net.info().mac).into());
        config.random_seed = clock::wall().as_nanos() as u64;
        let begin = Instant::now();
        let interface = Interface::new(config, &mut device, time::Instant::ZERO);
        let mut sockets = SocketSet::new(&mut storage.sockets[..]);
        let dns = sockets.add(dns::Socket::new(&[], &mut storage.queries[..]));
        let mut ip = Self { interface, device, sockets, dns, start: begin };
        match option(start, "ip") {
            Some(text) => {
                let address =
                    text.parse().unwrap_or_else(|()| failure(format_args!("'{text}': expected ADDRESS/BITS")));
                let parse = |name| {
                    let parse = |text: &str| text.parse::<Ipv4Address>().unwrap_or_else(|_| failure(text));
                    option(start, name).map(parse)
                };
                ip.configure(address, parse("gateway"), parse("dns"));
            }
            None => ip.ask_dhcp(),
        }
        ip
    }

    /// Starts a connection from a socket.
    pub fn connect(&mut self, socket: SocketHandle, to: (IpAddress, u16), from: u16) {
        let socket = self.sockets.get_mut::<tcp::Socket>(socket);
        if let Err(error) = socket.connect(self.interface.context(), to, from) {
            failure(format_args!("cannot connect to {}: {error}", to.0));
        }
    }

    /// Sends pending data and waits for the next event.
    pub fn wait(&mut self) {
        if self.turn() == PollResult::SocketStateChanged {
            return;
        }
        let now = self.now();
        let delay = self.interface.poll_delay(now, &self.sockets).map_or(NAP, Duration::from);
        yield_until(Instant::now() + delay.min(NAP));
        self.turn();
    }

    fn turn(&mut self) -> PollResult {
        let now = self.now();
        self.interface.poll(now, &mut self.device, &mut self.sockets)
    }

    /// Returns the first address of a name. The name may be an address.
    pub fn resolve(&mut self, name: &str) -> IpAddress {
        if let Ok(address) = name.parse::<Ipv4Address>() {
            return address.into();
        }
        let (cx, dns) = (self.interface.context(), self.sockets.get_mut::<dns::Socket>(self.dns));
        let query = dns.start_query(cx, name, DnsQueryType::A);
        let query = query.unwrap_or_else(|error| failure(format_args!("{name}: {error:?}")));
        loop {
            self.wait();
            match self.sockets.get_mut::<dns::Socket>(self.dns).get_query_result(query) {
                Ok(addresses) => return addresses[0],
                Err(dns::GetQueryResultError::Pending) => {}
                Err(dns::GetQueryResultError::Failed) => failure(format_args!("cannot resolve {name}")),
            }
        }
    }

    fn configure(&mut self, address: Ipv4Cidr, gateway: Option<Ipv4Address>, dns: Option<Ipv4Address>) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            if addresses.push(IpCidr::Ipv4(address)).is_err() {
                failure("no room for an address");
            }
        });
        if let Some(gateway) = gateway
            && self.interface.routes_mut().add_default_ipv4_route(gateway).is_err()
        {
            failure("no room for a route");
        }
        self.sockets.get_mut::<dns::Socket>(self.dns).update_servers(dns.map(IpAddress::from).as_slice());
        println!("address {address}");
    }

    fn ask_dhcp(&mut self) {
        let handle: SocketHandle = self.sockets.add(dhcpv4::Socket::new());
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            self.wait();
            if let Some(dhcpv4::Event::Configured(found)) = self.sockets.get_mut::<dhcpv4::Socket>(handle).poll() {
                let (address, gateway, dns) = (found.address, found.router, found.dns_servers.first().copied());
                self.configure(address, gateway, dns);
                return;
            }
        }
        failure(format_args!("no address after {PATIENCE:?}"))
    }

    fn now(&self) -> time::Instant {
        time::Instant::from_micros(self.start.elapsed().as_micros() as i64)
    }
}

/// smoltcp's interface to a network device.
struct NetDevice {
    net: Net,
}

impl phy::Device for NetDevice {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: time::Instant) -> Option<(Received, Sender<'_>)> {
        let mut frame = [0; FRAME];
        match self.net.read(&mut frame) {
            Ok(len) => Some((Received { frame, len }, Sender(&self.net))),
            Err(DeviceError::Again) => None,
            Err(error) => failure(format_args!("read: {error}")),
        }
    }

    fn transmit(&mut self, _: time::Instant) -> Option<Sender<'_>> {
        Some(Sender(&self.net))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.net.info().frame_size().min(FRAME);
        capabilities
    }
}

struct Received {
    frame: [u8; FRAME],
    len: usize,
}

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.frame[..self.len])
    }
}

struct Sender<'a>(&'a Net);

impl phy::TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = [0; FRAME];
        let result = write(&mut frame[..len]);
        if let Err(error) = self.0.write(&frame[..len]) {
            failure(format_args!("write of {len} bytes: {error}"));
        }
        result
    }
}
